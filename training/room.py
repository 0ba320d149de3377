"""What happens to a mix: a room, an echo in time, a pump on the beat, saturation. All of it goes round with the cycle.

What rings over the end of a cycle is heard at its beginning, so a cycle that is repeated has no seam.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.drums import Wave
from training.grid import RATE_HZ


def add_room(dry: Wave, size_s: float, level: float, random: np.random.Generator) -> Wave:
    """Reflections of a mix [N], twelve of them, falling by 60 dB in `size_s`."""
    delays_s = np.sort(random.uniform(0.004, 0.35 * size_s, 12))
    gains = level * random.choice((-1.0, 1.0), 12) * 10 ** (-3 * delays_s / size_s) / np.sqrt(12)
    return _with_copies(dry, np.round(delays_s * RATE_HZ).astype(int), gains)


def add_echo(dry: Wave, delay_samples: int, level: float) -> Wave:
    """Three repeats of a mix [N], each quieter."""
    return _with_copies(dry, delay_samples * np.arange(1, 4), np.float64(level) ** np.arange(1, 4))


def pump(mix: Wave, beat_samples: int, depth: float) -> Wave:
    """A mix [N] of whole beats that gives way at each beat and comes back."""
    t = np.arange(beat_samples, dtype=np.float32) / beat_samples
    curve = 1 - np.float32(depth) * np.exp(-t / np.float32(0.25))
    return (mix.reshape(-1, beat_samples) * curve).reshape(-1)


def saturate(mix: Wave, drive: float) -> Wave:
    """Bends a mix [N] of peak 1, the harder the larger `drive`; its peak stays 1."""
    return np.asarray(np.tanh(np.float32(drive) * mix) / np.tanh(drive), np.float32)


def _with_copies(dry: Wave, delays: npt.NDArray[np.int_], gains: npt.NDArray[np.float64]) -> Wave:
    wet = dry.copy()
    for delay, gain in zip(delays, gains, strict=True):
        late = int(delay) % len(dry)
        wet[late:] += np.float32(gain) * dry[: len(dry) - late]
        wet[:late] += np.float32(gain) * dry[len(dry) - late :]
    return wet
