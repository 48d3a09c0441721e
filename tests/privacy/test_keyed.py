import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapid_dist.errors import PrivacyError, SpecError
from rapid_dist.privacy.keyed import RunKey, stream_bytes, uniform_uint64

KEY = RunKey.fixed_for_debugging(7)
END_OF_COUNTER = 2**32 * 64
WHOLE = stream_bytes(KEY, role="noise", attempt=1, step=2, first_byte=0, num_bytes=2000)
AROUND_WRAP = stream_bytes(KEY, role="noise", attempt=1, step=2, first_byte=END_OF_COUNTER - 500, num_bytes=1000)


def test_chacha20_blocks_follow_rfc_8439():
    """Section 2.4.2's keystream starts at block 1; here through the library call the stream is built on."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    nonce = (1).to_bytes(4, "little") + bytes.fromhex("000000000000004a00000000")
    stream = Cipher(algorithms.ChaCha20(bytes(range(32)), nonce), mode=None).encryptor().update(bytes(16))
    assert stream.hex() == "224f51f3401bd9e12fde276fb8631ded"


@given(first=st.integers(0, 1999), num=st.integers(0, 2000))
def test_random_access_equals_the_slice_of_the_whole_stream(first, num):
    num = min(num, 2000 - first)
    piece = stream_bytes(KEY, role="noise", attempt=1, step=2, first_byte=first, num_bytes=num)
    assert piece == WHOLE[first : first + num]


@given(first=st.integers(0, 999), num=st.integers(0, 1000))
def test_random_access_holds_where_the_32_bit_counter_would_wrap(first, num):
    num = min(num, 1000 - first)
    start = END_OF_COUNTER - 500 + first
    piece = stream_bytes(KEY, role="noise", attempt=1, step=2, first_byte=start, num_bytes=num)
    assert piece == AROUND_WRAP[first : first + num]


def test_the_stream_does_not_repeat_after_the_counter_is_used_up():
    assert AROUND_WRAP[500:] != WHOLE[:500]
    far = stream_bytes(KEY, role="noise", attempt=1, step=2, first_byte=2**70, num_bytes=64)
    assert far not in (WHOLE[:64], AROUND_WRAP[500:564])


@pytest.mark.parametrize(
    "other",
    [
        {"role": "inclusion", "attempt": 1, "step": 2},
        {"role": "noise", "attempt": 2, "step": 2},
        {"role": "noise", "attempt": 1, "step": 3},
        {"role": "noise", "attempt": 2, "step": 1},
        {"role": "noise1", "attempt": 1, "step": 2},
    ],
)
def test_streams_of_different_names_share_nothing(other):
    stream = stream_bytes(KEY, first_byte=0, num_bytes=2000, **other)
    equal = np.mean(np.frombuffer(stream, np.uint8) == np.frombuffer(WHOLE, np.uint8))
    assert equal < 0.02  # 1/256 expected


def test_streams_of_different_keys_share_nothing():
    streams = {
        stream_bytes(key, role="noise", attempt=1, step=1, first_byte=0, num_bytes=32)
        for key in (RunKey.fresh(), RunKey.fresh(), RunKey.fixed_for_debugging(1), RunKey.fixed_for_debugging(2))
    }
    assert len(streams) == 4


@settings(max_examples=30)
@given(start=st.integers(0, 200), count=st.integers(0, 40))
def test_words_are_little_endian_words_of_the_stream(start, count):
    words = uniform_uint64(KEY, "noise", 1, 2, start, count)
    assert words.dtype == np.uint64
    assert [int(w) for w in words] == [
        int.from_bytes(WHOLE[8 * i : 8 * i + 8], "little") for i in range(start, start + count)
    ]


def test_bits_are_balanced():
    words = uniform_uint64(KEY, "balance", 1, 1, 0, 20_000)
    ones = np.array([((words >> np.uint64(b)) & np.uint64(1)).sum() for b in range(64)], dtype=float)
    z = (ones - 10_000) / np.sqrt(5_000)
    assert np.abs(z).max() < 5


def test_a_key_does_not_show_itself():
    key = RunKey.fresh()
    secret = key.export_bytes()[1:]
    for text in (repr(key), str(key), f"{key}", repr([key])):
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_key_is_not_pickled_or_copied_by_accident(take):
    with pytest.raises(TypeError, match="export_bytes"):
        take(RunKey.fresh())


@pytest.mark.parametrize("key", [RunKey.fresh(), RunKey.fixed_for_debugging(3)])
def test_export_and_import_keep_the_stream_and_the_debug_mark(key):
    twin = RunKey.from_bytes(key.export_bytes())
    assert twin.is_private is key.is_private
    assert np.array_equal(uniform_uint64(twin, "r", 1, 1, 0, 4), uniform_uint64(key, "r", 1, 1, 0, 4))


def test_only_fresh_keys_are_private():
    assert RunKey.fresh().is_private is True
    assert KEY.is_private is False
    assert "NOT PRIVATE" in repr(KEY)


@pytest.mark.parametrize("exported", [b"", bytes(32), bytes([2]) + bytes(32), "x" * 33])
def test_bytes_that_are_no_export_are_refused(exported):
    with pytest.raises(SpecError):
        RunKey.from_bytes(exported)


@pytest.mark.parametrize(
    "change", [{"attempt": -1}, {"step": 1.0}, {"first_byte": -1}, {"num_bytes": True}, {"role": ""}]
)
def test_addresses_outside_their_range_are_refused(change):
    values = {"role": "noise", "attempt": 1, "step": 1, "first_byte": 0, "num_bytes": 1}
    with pytest.raises(SpecError):
        stream_bytes(KEY, **{**values, **change})


def test_a_plain_seed_is_no_key():
    with pytest.raises(PrivacyError):
        stream_bytes(b"seed", role="noise", attempt=1, step=1, first_byte=0, num_bytes=1)
