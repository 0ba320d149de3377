"""Keeps samples within full scale without memory: each depends on itself alone, so a stream and the whole are equal.

Below the knee nothing changes; above it a hyperbolic tangent, which goes on with the same slope, takes all that is
left up to full scale.
"""

from __future__ import annotations

import numpy as np

from gary.audio.clip import Samples

KNEE_DB = -1.0
_KNEE = np.float32(10 ** (KNEE_DB / 20))


def limit(samples: Samples) -> Samples:
    """The samples of any shape, none beyond -1 to 1; those within -1 dBFS are the very same. It never changes an order:
    of two samples the greater stays the greater, or they become equal."""
    level = np.abs(samples)
    if level.max(initial=0.0) <= _KNEE:
        return samples
    room = np.float32(1) - _KNEE
    bent = np.minimum(_KNEE + room * np.tanh((level - _KNEE) / room), np.float32(1))
    return np.where(level <= _KNEE, samples, np.copysign(bent, samples)).astype(np.float32, copy=False)
