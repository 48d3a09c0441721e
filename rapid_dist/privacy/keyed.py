"""Secret random bytes addressed by what they are for, so that no worker, order or restart can shift them."""

from __future__ import annotations

import hashlib
import secrets
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from rapid_dist.errors import PrivacyError, SpecError

_KEY_BYTES = 32
_BLOCK_BYTES = 64
_BLOCKS_PER_SUBKEY = 2**32
_ZEROS = bytes(2**19)
_PERSONALISATION = b"rapid_dist.keyed"


class RunKey:
    """The secret of one process group for one attempt: 32 bytes that live in memory only.

    Guarantee: whoever has the key can remove the noise, so it is not shown, not compared and not pickled;
    export_bytes is the one way out, meant for handing it to a worker. A key made for debugging stays marked
    (is_private is False) across export and import.
    """

    __slots__ = ("_secret", "is_private")

    def __init__(self, secret: bytes, *, is_private: bool):
        if not isinstance(secret, bytes) or len(secret) != _KEY_BYTES:
            raise SpecError(f"a run key has {_KEY_BYTES} bytes; use RunKey.fresh()")
        self._secret = secret
        self.is_private = is_private

    @classmethod
    def fresh(cls) -> RunKey:
        """A new key from the operating system's random source."""
        return cls(secrets.token_bytes(_KEY_BYTES), is_private=True)

    @classmethod
    def fixed_for_debugging(cls, seed: int) -> RunKey:
        """A key anyone can rebuild: what it protects is NOT PRIVATE, and is_private says so."""
        secret = hashlib.blake2b(f"debug {int(seed)}".encode(), digest_size=_KEY_BYTES).digest()
        return cls(secret, is_private=False)

    def export_bytes(self) -> bytes:
        """The 33 bytes from_bytes wants: the secret and the debug mark. Never store, log or send them home."""
        return bytes([self.is_private]) + self._secret

    @classmethod
    def from_bytes(cls, exported: bytes) -> RunKey:
        """Raises SpecError when the bytes do not come from export_bytes."""
        if not isinstance(exported, bytes) or len(exported) != _KEY_BYTES + 1 or exported[0] > 1:
            raise SpecError(f"expected the {_KEY_BYTES + 1} bytes of RunKey.export_bytes()")
        return cls(exported[1:], is_private=bool(exported[0]))

    def __repr__(self) -> str:
        return "RunKey(secret)" if self.is_private else "RunKey(debug, NOT PRIVATE)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a RunKey is not pickled or copied; hand export_bytes() to the worker on purpose")


def stream_bytes(key: RunKey, *, role: str, attempt: int, step: int, first_byte: int, num_bytes: int) -> bytes:
    """Bytes [first_byte, first_byte + num_bytes) of the endless stream named (role, attempt, step).

    The stream is ChaCha20 (RFC 8439 block function) in stretches of 2^32 blocks of 64 bytes; a stretch's
    256-bit subkey is keyed BLAKE2b of role, attempt, step and stretch number, so the 32-bit block counter
    never wraps and the nonce can stay zero.
    Guarantee: streams of different names, and different bytes of one stream, are independent and uniform to
    anyone without the key, if ChaCha20 and BLAKE2b are pseudorandom. The same address always gives the same
    bytes: releasing two different sums under one address would cancel the noise, hence the attempt.
    """
    _require_count("first_byte", first_byte)
    _require_count("num_bytes", num_bytes)
    pieces = []
    while num_bytes > 0:
        stretch, offset = divmod(first_byte, _BLOCKS_PER_SUBKEY * _BLOCK_BYTES)
        take = min(num_bytes, _BLOCKS_PER_SUBKEY * _BLOCK_BYTES - offset)
        block, skip = divmod(offset, _BLOCK_BYTES)
        subkey = _subkey(key, role, attempt, step, stretch)
        nonce = block.to_bytes(4, "little") + bytes(12)
        encryptor = Cipher(algorithms.ChaCha20(subkey, nonce), mode=None).encryptor()
        data = encryptor.update(_zeros(skip + take))
        pieces.append(data[skip:] if skip else data)
        first_byte += take
        num_bytes -= take
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _zeros(count: int) -> memoryview | bytes:
    """What ChaCha20 is added to; the usual lengths share one block of zeros."""
    return memoryview(_ZEROS)[:count] if count <= len(_ZEROS) else bytes(count)


def uniform_uint64(key: RunKey, role: str, attempt: int, step: int, start: int, count: int) -> np.ndarray:
    """Words [start, start + count) of the stream, (count,) uint64, little-endian, read-only."""
    _require_count("start", start)
    _require_count("count", count)
    data = stream_bytes(key, role=role, attempt=attempt, step=step, first_byte=8 * int(start), num_bytes=8 * int(count))
    return np.frombuffer(data, dtype="<u8")


def _subkey(key: RunKey, role: str, attempt: int, step: int, stretch: int) -> bytes:
    if not isinstance(key, RunKey):
        raise PrivacyError(f"got a {type(key).__name__} as key; expected a RunKey, e.g. RunKey.fresh()")
    if not isinstance(role, str) or not role:
        raise SpecError(f"role is {role!r}; expected a name, e.g. 'noise'")
    name = role.encode()
    message = len(name).to_bytes(8, "little") + name
    for label, number in (("attempt", attempt), ("step", step), ("stretch", stretch)):
        _require_count(label, number)
        message += int(number).to_bytes(16, "little")
    return hashlib.blake2b(message, digest_size=32, key=key._secret, person=_PERSONALISATION).digest()


def _require_count(label: str, number: int) -> None:
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 0:
        raise SpecError(f"{label} is {number!r}; expected a whole number of at least 0")
