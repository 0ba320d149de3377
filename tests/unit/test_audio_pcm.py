"""Whole numbers and WAV files: the header is known before the samples, and no depth that is chosen loses any."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gary.audio import pcm
from gary.audio.clip import Clip, Samples
from gary.audio.files import decode, encode_flac, encode_wav
from gary.config import Limits
from gary.errors import MediaError

RATE_HZ = 44_100
GRIDS = {16: 2**15, 24: 2**23, 32: 2**24}


def grid_samples(bits: int, channels: int = 2, length_samples: int = 30_001) -> Samples:
    """Samples of so many bits, the extremes among them; 32: floats that no integer of 24 bits holds."""
    steps = GRIDS[bits]
    whole = np.random.default_rng(bits).integers(-steps, steps, (channels, length_samples))
    whole[:, :3] = [-steps, steps - 1, 1]
    return (whole / steps).astype(np.float32)


@given(st.integers(1, 8), st.integers(8_000, 192_000), st.integers(0, 5000))
def test_our_files_are_those_of_libsndfile(channels: int, rate_hz: int, length_samples: int) -> None:
    """Byte for byte, header and samples; and the header is the one that was made from the length alone."""
    integers = np.arange(length_samples * channels, dtype=np.int16).reshape(length_samples, channels)
    file = io.BytesIO()
    soundfile.write(file, integers, rate_hz, format="WAV", subtype="PCM_16")
    assert pcm.wav(integers, rate_hz) == file.getvalue()
    assert file.getvalue()[: pcm.HEADER_BYTES] == pcm.header(rate_hz, channels, length_samples)


@given(npst.arrays(np.float32, (2, 20), elements=st.floats(-2, 2, width=32)))
def test_sixteen_bits_are_those_of_encode_wav(samples: Samples) -> None:
    """One conversion for all that leaves the house; what was 16 bits comes back through floats."""
    integers = pcm.to_int16(samples)
    assert encode_wav(Clip(samples, RATE_HZ))[pcm.HEADER_BYTES :] == integers.tobytes()
    assert np.array_equal(pcm.to_int16(pcm.Pcm(integers, RATE_HZ).clip().samples), integers)


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2, 3])
async def test_a_lossless_wav_is_exact(bits: int, channels: int) -> None:
    """The fewest bits that hold every sample, read back by ffmpeg and by libsndfile as the same floats."""
    samples = grid_samples(bits, channels)
    data = pcm.lossless_wav(Clip(samples, RATE_HZ))
    assert struct.unpack_from("<H", data, 34) == (bits,)
    assert struct.unpack_from("<I", data, 4) == (len(data) - 8,)
    assert np.array_equal((await decode(data, Limits())).samples, samples)
    read, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    assert rate_hz == RATE_HZ
    assert np.array_equal(read.T, samples)


@pytest.mark.parametrize("bits", [16, 24])
async def test_flac_is_exact(bits: int) -> None:
    """Of 16 and of 24 bits; deeper ones are rounded to 24."""
    samples = grid_samples(bits)
    data = encode_flac(Clip(samples, RATE_HZ))
    assert soundfile.info(io.BytesIO(data)).subtype == f"PCM_{bits}"
    assert np.array_equal((await decode(data, Limits())).samples, samples)


async def test_flac_rounds_what_is_finer() -> None:
    """Floats beyond 24 bits come back within half a step; beyond full scale they clip."""
    samples = grid_samples(32)
    samples[0, 5] = 1.5
    decoded = (await decode(encode_flac(Clip(samples, RATE_HZ)), Limits())).samples
    assert decoded[0, 5] == np.float32(1 - 2**-23)
    samples[0, 5] = decoded[0, 5]
    assert np.abs(decoded - samples).max() <= 2**-24


def test_the_depth_is_found_anywhere_in_a_long_clip() -> None:
    """One finer sample near the end of half a million decides."""
    samples = grid_samples(16, 1, 500_000)
    assert pcm.bits_needed(samples) == 16
    samples[0, 499_000] = 3 * 2**-20
    assert pcm.bits_needed(samples) == 24
    samples[0, 499_500] = 1.0  # one step too many for any integer
    assert pcm.bits_needed(samples) == 32


@pytest.mark.parametrize("data", [b"", b"RIFF", b"junk" * 100, pcm.lossless_wav(Clip(grid_samples(24), RATE_HZ))])
def test_only_sixteen_bits_are_read(data: bytes) -> None:
    """What is no 16-bit WAV file is refused."""
    with pytest.raises(MediaError):
        pcm.read_wav(data)
