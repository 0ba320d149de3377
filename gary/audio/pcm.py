"""Samples as whole numbers, and WAV files whose header is known before their first sample is.

One conversion to 16 bits for everything that leaves the house, so that what is streamed, stored and encoded later is
the same. The header of a 16-bit file is the plain one of 44 bytes (Microsoft's RIFF: `fmt ` of 16 bytes, then `data`).
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile

from gary.audio.clip import Clip, Samples
from gary.errors import MediaError

Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Bits = Literal[16, 24, 32]  # 32 is float

HEADER_BYTES = 44
SAMPLE_BYTES = 2

_BLOCK_SAMPLES = 1 << 18
_INTEGER, _FLOAT = 1, 3  # WAVE_FORMAT_PCM, WAVE_FORMAT_IEEE_FLOAT
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_FLOAT_HEADER = struct.Struct("<4sI4s4sIHHIIHHH4sII4sI")  # every format but integers has a `fact` chunk


@dataclass(frozen=True, eq=False)
class Pcm:
    """Audio of 16 bits.

    Attributes:
        integers: [N, C] int16, as they lie in a file.
    """

    integers: Int16
    rate_hz: int

    @property
    def length_samples(self) -> int:
        return int(self.integers.shape[0])

    @property
    def channels(self) -> int:
        return int(self.integers.shape[1])

    def clip(self) -> Clip:
        """The same samples as floats; `to_int16` gives them back bit for bit."""
        return Clip(np.ascontiguousarray(self.integers.T).astype(np.float32) / np.float32(32768), self.rate_hz)


def to_int16(samples: Samples) -> Int16:
    """[C, N] floats as [N, C] integers; what came from 16 bits comes back bit for bit, beyond -1 to 1 it clips."""
    whole = np.rint(samples.T * np.float32(2**15))
    return np.asarray(np.clip(whole, -(2**15), 2**15 - 1), np.int16, order="C")


def to_int24(samples: Samples) -> Int32:
    """[C, N] floats as [N, C] integers of 24 bits, in 32; likewise."""
    whole = np.rint(samples.T * np.float32(2**23))
    return np.asarray(np.clip(whole, -(2**23), 2**23 - 1), np.int32, order="C")


def bits_needed(samples: Samples) -> Bits:
    """The fewest bits of 16 and 24 that hold every sample as it is; 32, as floats, where neither does."""
    bits: Bits = 16
    for first in range(0, samples.shape[1], _BLOCK_SAMPLES):
        block = samples[:, first : first + _BLOCK_SAMPLES]
        if bits == 16 and not _on_grid(block, 2.0**15):
            bits = 24
        if bits == 24 and not _on_grid(block, 2.0**23):
            return 32
    return bits


def _on_grid(samples: Samples, steps: float) -> bool:
    scaled = samples * np.float32(steps)  # by a power of two: exact
    return bool(np.all((scaled == np.rint(scaled)) & (scaled >= -steps) & (scaled <= steps - 1)))


def header(rate_hz: int, channels: int, length_samples: int, bits: Literal[16, 24] = 16) -> bytes:
    """The first 44 bytes of a WAV file of so many samples per channel."""
    frame_bytes = channels * bits // 8
    data_bytes = length_samples * frame_bytes
    padded_bytes = data_bytes + data_bytes % 2
    form = (b"WAVE", b"fmt ", 16, _INTEGER, channels, rate_hz, rate_hz * frame_bytes, frame_bytes, bits)
    return _HEADER.pack(b"RIFF", HEADER_BYTES - 8 + padded_bytes, *form, b"data", data_bytes)


def wav(integers: Int16, rate_hz: int) -> bytes:
    """A WAV file of 16 bits; `integers` are [N, C]."""
    return header(rate_hz, integers.shape[1], integers.shape[0]) + integers.astype("<i2", copy=False).tobytes()


def lossless_wav(clip: Clip) -> bytes:
    """A WAV file of the fewest bits that hold every sample: 16, 24, or 32 as floats."""
    bits = bits_needed(clip.samples)
    if bits == 16:
        return wav(to_int16(clip.samples), clip.rate_hz)
    if bits == 24:
        low_bytes = to_int24(clip.samples).astype("<i4", copy=False).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
        padding = bytes(len(low_bytes) % 2)  # a chunk has an even number of bytes
        return header(clip.rate_hz, clip.channels, clip.length_samples, 24) + low_bytes + padding
    return _float_header(clip) + np.ascontiguousarray(clip.samples.T, dtype="<f4").tobytes()


def _float_header(clip: Clip) -> bytes:
    frame_bytes = 4 * clip.channels
    data_bytes = clip.length_samples * frame_bytes
    form = (b"WAVE", b"fmt ", 18, _FLOAT, clip.channels, clip.rate_hz, clip.rate_hz * frame_bytes, frame_bytes, 32, 0)
    fact = (b"fact", 4, clip.length_samples)
    return _FLOAT_HEADER.pack(b"RIFF", _FLOAT_HEADER.size - 8 + data_bytes, *form, *fact, b"data", data_bytes)


def read_wav(data: bytes) -> Pcm:
    """A WAV file of 16 bits, bit for bit.

    Raises:
        MediaError: it is none.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if (file.format, file.subtype) not in {("WAV", "PCM_16"), ("WAVEX", "PCM_16")}:
                raise MediaError(f"16-bit WAV is expected here, not {file.subtype} in {file.format}")
            return Pcm(file.read(dtype="int16", always_2d=True), file.samplerate)
    except soundfile.LibsndfileError as error:
        raise MediaError("the bytes are no WAV file") from error
