"""Drums, one stroke each: short and tonal, since noise that rings is what a codec of 2.2 kbit/s cannot carry.

Every sound is drawn once for a loop and repeated as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from training.grid import RATE_HZ

Wave = npt.NDArray[np.float32]


def make_drums(random: np.random.Generator) -> dict[str, Wave]:
    """A drum kit: name -> [N] float32, peak near 1."""
    return {name: _faded(make(random)) for name, make in _DRUMS.items()}


def _kick(random: np.random.Generator) -> Wave:
    t = _times(0.22)
    low_hz, sweep_hz, fall_s = random.uniform(44, 60), random.uniform(90, 260), random.uniform(0.012, 0.03)
    turns = low_hz * t + sweep_hz * fall_s * (1 - np.exp(-t / fall_s))
    click = random.uniform(0.1, 0.4) * np.sin(2 * np.pi * random.uniform(1500, 3500) * t) * np.exp(-t / 0.0015)
    return _float(np.sin(2 * np.pi * turns) * np.exp(-t / random.uniform(0.05, 0.11)) + click)


def _snare(random: np.random.Generator) -> Wave:
    t = _times(0.16)
    body_hz = random.uniform(160, 240)
    tone = np.sin(2 * np.pi * body_hz * t) + 0.6 * np.sin(2 * np.pi * 1.6 * body_hz * t)
    rattle = _inharmonic(t, random, 1200, 5500, 10) + 0.5 * random.standard_normal(len(t), np.float32)
    return _float(
        0.55 * tone * np.exp(-t / random.uniform(0.03, 0.06)) + 0.4 * rattle * np.exp(-t / random.uniform(0.018, 0.04))
    )


def _hat(random: np.random.Generator) -> Wave:
    t = _times(0.06)
    return _float(_inharmonic(t, random, 5500, 11_000, 8) * np.exp(-t / random.uniform(0.006, 0.016)))


def _open_hat(random: np.random.Generator) -> Wave:
    t = _times(0.16)
    return _float(_inharmonic(t, random, 5000, 10_000, 8) * np.exp(-t / random.uniform(0.03, 0.06)))


_DRUMS: dict[str, Callable[[np.random.Generator], Wave]] = {
    "kick": _kick,
    "snare": _snare,
    "hat": _hat,
    "open_hat": _open_hat,
}


def _inharmonic(t: Wave, random: np.random.Generator, low_hz: float, high_hz: float, partials: int) -> Wave:
    """A struck plate: partials of unrelated pitch."""
    hz = np.exp(random.uniform(np.log(low_hz), np.log(high_hz), (partials, 1)))
    waves = np.sin(2 * np.pi * hz.astype(np.float32) * t + random.uniform(0, 6.28, (partials, 1)).astype(np.float32))
    return _float(waves.sum(axis=0) / np.sqrt(partials))


def _times(duration_s: float) -> Wave:
    return _float(np.arange(round(duration_s * RATE_HZ)) / RATE_HZ)


def _faded(wave: Wave) -> Wave:
    """Ends at zero: a sound that is cut off clicks."""
    fade = np.linspace(1, 0, 160, dtype=np.float32)
    return np.concatenate([wave[:-160], wave[-160:] * fade])


def _float(wave: npt.NDArray[np.floating]) -> Wave:
    return np.asarray(wave, np.float32)
