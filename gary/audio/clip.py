"""`Clip`, the one value in which audio travels. It knows numbers only: no file, no codec, no process.

A clip's array may be read-only shared memory (Ray's object store hands it out so): nobody writes into it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gary.errors import InvalidInput

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Clip:
    """Audio samples and their rate.

    Attributes:
        samples: [C, N] float32, nominally -1 to 1, C channels of N samples each.
        rate_hz: samples per second and channel.
    """

    samples: Samples
    rate_hz: int

    def __post_init__(self) -> None:
        assert self.samples.ndim == 2, f"samples are [C, N], not {self.samples.shape}"
        assert self.samples.dtype == np.float32, f"samples are float32, not {self.samples.dtype}"
        assert self.rate_hz > 0, f"rate_hz is positive, not {self.rate_hz}"

    @property
    def channels(self) -> int:
        return int(self.samples.shape[0])

    @property
    def length_samples(self) -> int:
        return int(self.samples.shape[1])

    @property
    def duration_s(self) -> float:
        return self.length_samples / self.rate_hz

    def sha256(self) -> str:
        """Of everything that the clip is: shape, rate, and samples as little-endian floats, channel by channel."""
        digest = hashlib.sha256(f"{self.channels} {self.length_samples} {self.rate_hz} ".encode())
        for channel in self.samples:
            digest.update(channel.astype("<f4").tobytes())
        return digest.hexdigest()

    def mono(self) -> Clip:
        """The mean of all channels, as [1, N]."""
        if self.channels == 1:
            return self
        return Clip(self.samples.mean(axis=0, keepdims=True, dtype=np.float32), self.rate_hz)

    def slice_s(self, start_s: float, end_s: float) -> Clip:
        """The stretch from `start_s` to `end_s`, both rounded to whole samples and cut to the clip; a view, no copy.

        Raises:
            InvalidInput: the stretch holds no sample.
        """
        start = max(0, round(start_s * self.rate_hz))
        end = min(self.length_samples, round(end_s * self.rate_hz))
        if start >= end:
            raise InvalidInput(
                f"no audio between {start_s:g} s and {end_s:g} s: the clip is {self.duration_s:g} s long", "empty_range"
            )
        return Clip(self.samples[:, start:end], self.rate_hz)
