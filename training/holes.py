"""Holes: stretches in which nothing is heard. Loops are made without, so that one in what a model makes is its own."""

from __future__ import annotations

import numpy as np

from gary.audio.clip import Samples

HOLE_S, HOLE_DBFS = 0.3, -50.0


def has_hole(wave: Samples, rate_hz: int) -> bool:
    """Whether more than 300 ms on end lie below -50 dBFS."""
    window = rate_hz // 50
    windows = len(wave) // window
    power = np.square(wave[: windows * window].reshape(windows, window)).mean(axis=1)
    silent = 10 * np.log10(power + 1e-12) < HOLE_DBFS
    longest = run = 0
    for still in silent:
        run = run + 1 if still else 0
        longest = max(longest, run)
    return longest * window / rate_hz > HOLE_S
