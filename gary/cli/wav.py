"""WAVs as the service sends them, read without numpy.

What is no such WAV is an error of the service: nothing else is read here.
"""

from __future__ import annotations

import io
import struct
import sys
import wave
from array import array
from dataclasses import dataclass

from gary.client import ServiceFailed


@dataclass(frozen=True, eq=False)
class Sound:
    """16-bit audio.

    Attributes:
        samples: [N * C], the channels of each moment beside each other.
    """

    samples: array[int]
    channels: int
    rate_hz: int

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.channels / self.rate_hz


def read_wav(data: bytes) -> Sound:
    """A 16-bit PCM WAV, as answers are; raises ServiceFailed where it is none."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            if file.getsampwidth() != 2:
                raise _no_wav()
            samples = array("h", file.readframes(file.getnframes()))
            channels, rate_hz = file.getnchannels(), file.getframerate()
    except (wave.Error, EOFError) as error:
        raise _no_wav() from error
    if sys.byteorder == "big":
        samples.byteswap()
    return Sound(samples, channels, rate_hz)


def wav_duration_s(data: bytes) -> float:
    """Of a WAV of any sample format; raises ServiceFailed where it is none.

    The standard library's reader knows integers alone, and a file that holds floats is answered in floats.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise _no_wav()
    offset, bytes_per_s = 12, 0
    while offset + 24 <= len(data):
        name, size_bytes = struct.unpack_from("<4sI", data, offset)
        if name == b"fmt ":
            rate_hz, block_bytes = struct.unpack_from("<I4xH", data, offset + 12)
            bytes_per_s = rate_hz * block_bytes
        elif name == b"data" and bytes_per_s:
            return float(min(size_bytes, len(data) - offset - 8) / bytes_per_s)
        offset += 8 + size_bytes + size_bytes % 2
    raise _no_wav()


def _no_wav() -> ServiceFailed:
    return ServiceFailed("the service sent what is no WAV", "not_understood")
