"""Public randomness addressed by (seed, role, item), so that no result depends on the order of draws.

Nothing here protects privacy: inclusion and noise have a secret key of their own (privacy.keyed). The item of a private
record is a digest of its own content, never its place among the others: see rapid_dist/privacy/README.md.
"""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
import torch


def derive_seed(seed: int, role: str, *indices: int) -> int:
    """A 63-bit seed that is a function of its address alone."""
    text = f"{seed}|{role}|{'|'.join(map(str, indices))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def make_rng(seed: int, role: str, *indices: int) -> np.random.Generator:
    """A numpy generator for this address."""
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, role, *indices)))


def make_generator(seed: int, role: str, *indices: int, device: str = "cpu") -> torch.Generator:
    """A torch generator for this address."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, role, *indices))


def _mix(words: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014) on uint64, in place."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words ^= words >> np.uint64(shift)
        words *= np.uint64(factor)
    words ^= words >> np.uint64(31)
    return words


def _words(seed: int, role: str, item_ids: np.ndarray, count: int) -> np.ndarray:
    """(len(item_ids), count) uint64; row i is a function of (seed, role, item_ids[i]) alone."""
    items = np.asarray(item_ids).astype(np.uint64)
    starts = _mix(_mix(items + np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(derive_seed(seed, role)))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return _mix(starts[:, None] + steps[None, :])


def content_addresses(rows: np.ndarray) -> np.ndarray:
    """Returns one address a row, (n,) uint64: 64 bits of BLAKE2b (RFC 7693) over the row's own shape and bytes.

    rows: (n, ...) of any fixed-size type. Equal rows have equal addresses, and so share their public draws.
    """
    return content_digests(rows)[:, 0]


def content_digests(rows: np.ndarray) -> np.ndarray:
    """Returns the 128-bit BLAKE2b of each row's shape and bytes, (n, 2) uint64."""
    shape = struct.pack(f"<{rows.ndim - 1}q", *rows.shape[1:])
    kept = np.ascontiguousarray(rows)
    digests = b"".join(hashlib.blake2b(shape + row.tobytes(), digest_size=16).digest() for row in kept)
    return np.frombuffer(digests, "<u8").reshape(-1, 2).astype(np.uint64)


def draw_normals(seed: int, role: str, item_ids: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normals (n, *shape) float32 for item ids (n,); row i depends on (seed, role, item_ids[i]) alone.

    Counter-based: splitmix64 words turned into pairs of normals by Box and Muller (1958).
    """
    size = math.prod(shape)
    words = _words(seed, role, item_ids, (size + 1) // 2)
    # 32-bit uniforms, the first shifted by half a unit so that its logarithm is finite.
    first = ((words >> np.uint64(32)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-32)
    second = (words & np.uint64(0xFFFFFFFF)).astype(np.float32) * np.float32(2 * np.pi * 2**-32)
    radius = np.sqrt(np.float32(-2) * np.log(np.minimum(first, np.float32(1 - 2**-24))))
    rows = np.stack([radius * np.cos(second), radius * np.sin(second)], axis=2).reshape(len(words), 2 * words.shape[1])
    return rows[:, :size].reshape(len(words), *shape)


def draw_integers(seed: int, role: str, item_ids: np.ndarray, count: int, *, below: int) -> np.ndarray:
    """Uniform integers in [0, below), (n, count) int64; row i depends on (seed, role, item_ids[i]) alone."""
    return ((_words(seed, role, item_ids, count) >> np.uint64(11)) % np.uint64(below)).astype(np.int64)


def draw_uniforms(seed: int, role: str, item_ids: np.ndarray, count: int) -> np.ndarray:
    """Uniforms in [0, 1), (n, count) float64; row i depends on (seed, role, item_ids[i]) alone."""
    return (_words(seed, role, item_ids, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
