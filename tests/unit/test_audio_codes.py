"""The file of codes gives back what went in, and nothing else is taken for one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gary.audio.codes import CodeArray, Codes, codes_sha256, pack, unpack
from gary.errors import MediaError

CODEC = "a1" * 32
code_arrays = npst.arrays(np.int16, st.tuples(st.integers(1, 8), st.integers(1, 60)), elements=st.integers(0, 2047))


@given(code_arrays, st.integers(1, 2000), st.integers(0, 2**40))
def test_what_is_packed_is_unpacked(codes: CodeArray, frame_samples: int, start_sample: int) -> None:
    """All four fields, and the same codes give the same bytes."""
    data = pack(Codes(codes, CODEC, frame_samples, start_sample))
    found = unpack(data)
    assert np.array_equal(found.codes, codes)
    assert found.codes.dtype == np.int16
    assert (found.codec_sha256, found.frame_samples, found.start_sample) == (CODEC, frame_samples, start_sample)
    assert pack(found) == data


@given(st.integers(0), st.integers(0, 255))
def test_a_damaged_file_is_refused_or_tells_the_same(place: int, value: int) -> None:
    """Any byte changed: an error of ours and no other, or a byte that did not matter."""
    codes = Codes(np.arange(200, dtype=np.int16).reshape(4, 50), CODEC, 640, 0)
    data = bytearray(pack(codes))
    data[place % len(data)] = value
    found = unpacked(bytes(data))
    assert found is None or np.array_equal(found.codes, codes.codes)


def unpacked(data: bytes) -> Codes | None:
    """None where it is refused."""
    try:
        return unpack(data)
    except MediaError:
        return None


@given(st.binary(max_size=200), st.integers(0, 500))
def test_what_is_no_such_file_is_refused(junk: bytes, length: int) -> None:
    """Any bytes, and any beginning of a file."""
    beginning = pack(Codes(np.zeros((4, 50), np.int16), CODEC, 640, 0))[:length]
    for data in (junk, beginning):
        with pytest.raises(MediaError) as caught:
            unpack(data)
        assert caught.value.code == "not_codes"


@pytest.mark.parametrize(
    "wrong",
    [
        {"codes": np.zeros((4, 5), np.int64)},
        {"codes": np.zeros(5, np.int16)},
        {"codes": np.zeros((4, 0), np.int16)},
        {"codec_sha256": np.array(7)},
        {"grid": np.array([640])},
        {"grid": np.array([0, 0])},
        {"grid": np.array([640, -1])},
        {"codes": np.array([None])},
    ],
)
def test_another_content_is_refused(wrong: dict[str, Any]) -> None:
    """Arrays of other kinds or shapes, numbers out of range, and pickles."""
    right: dict[str, Any] = {
        "codes": np.zeros((4, 5), np.int16),
        "codec_sha256": np.array(CODEC),
        "grid": np.array([640, 0]),
    }
    file = io.BytesIO()
    np.savez(file, **(right | wrong))
    with pytest.raises(MediaError):
        unpack(file.getvalue())


def test_the_hash_is_of_shape_and_values() -> None:
    """The same numbers in another shape are other codes; how they lie in memory does not matter."""
    codes = np.arange(12, dtype=np.int16).reshape(3, 4)
    assert codes_sha256(codes) == codes_sha256(np.asfortranarray(codes))
    assert len({codes_sha256(codes), codes_sha256(codes.reshape(4, 3)), codes_sha256(codes + np.int16(1))}) == 3
