"""Bass, chords and lead: one note each, read from two tables of one period, a bright one that dies into a dark one.

A table holds few harmonics, none above `_TOP_HZ`: so nothing folds back, and a note is a lookup instead of many sines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.drums import Wave
from training.grid import RATE_HZ

_TABLE = 8192  # samples of a period: read at the nearest, the error is 78 dB down
_TOP_HZ = 6000.0


@dataclass(frozen=True)
class Voice:
    """How an instrument sounds.

    Attributes:
        slope: harmonic k has level k ** -slope.
        even: level of even harmonics; 0 is a square's hollow sound.
        dark: harmonics that are left when the brightness has died.
        attack_s, bright_s, decay_s: rise; and time constants of brightness and level.
        detune: in semitones, of a second oscillator.
        held: whether the level is kept for the note's length; else it rings out.
    """

    slope: float
    even: float
    dark: int
    attack_s: float
    bright_s: float
    decay_s: float
    detune: float = 0.0
    held: bool = False


VOICES = {
    "sub": Voice(2.2, 1.0, 2, 0.004, 0.05, 1.2, held=True),
    "reese": Voice(1.0, 1.0, 6, 0.006, 0.4, 2.0, detune=0.12, held=True),
    "saw": Voice(1.1, 1.0, 3, 0.003, 0.08, 0.35),
    "pick": Voice(1.5, 0.8, 2, 0.003, 0.06, 0.4),
    "stab": Voice(1.0, 1.0, 3, 0.004, 0.07, 0.18),
    "keys": Voice(2.0, 0.7, 2, 0.004, 0.12, 0.7),
    "pad": Voice(1.6, 1.0, 4, 0.12, 1.5, 3.0, detune=0.08, held=True),
    "pluck": Voice(1.3, 0.9, 1, 0.002, 0.05, 0.22),
    "bell": Voice(2.0, 0.2, 1, 0.002, 0.2, 0.5),
    "square": Voice(1.2, 0.0, 3, 0.004, 0.15, 0.5, held=True),
}


def varied(voice: Voice, random: np.random.Generator) -> Voice:
    """The same instrument, set a little otherwise."""
    low, high = 0.75, 1.35
    return Voice(
        slope=voice.slope * random.uniform(0.85, 1.2),
        even=voice.even * random.uniform(0.7, 1.0),
        dark=voice.dark,
        attack_s=voice.attack_s * random.uniform(low, high),
        bright_s=voice.bright_s * random.uniform(low, high),
        decay_s=voice.decay_s * random.uniform(low, high),
        detune=voice.detune * random.uniform(low, high),
        held=voice.held,
    )


def play(voice: Voice, pitch: int, length_s: float) -> Wave:
    """One note, [N] float32; what is not held rings for up to 1.5 times its length.

    Args:
        pitch: a MIDI number.
    """
    hz = 440 * 2 ** ((pitch - 69) / 12)
    count = round((length_s if voice.held else 1.5 * length_s) * RATE_HZ)
    t = np.arange(count, dtype=np.float32) / RATE_HZ
    bright, dark = _tables(voice, hz)
    turning = _read(bright, hz, count)
    turning -= (still := _read(dark, hz, count))
    wave = still + turning * np.exp(-t / np.float32(voice.bright_s))
    if voice.detune:
        wave += 0.7 * _read(dark, hz * 2 ** (voice.detune / 12), count)
    wave *= np.minimum(1, t / np.float32(voice.attack_s)) * np.exp(-t / np.float32(voice.decay_s))
    fade = min(count, round(0.008 * RATE_HZ))
    wave[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return np.asarray(wave, np.float32)


def _tables(voice: Voice, hz: float) -> tuple[Wave, Wave]:
    """One period of the bright and of the dark sound, each [_TABLE]; RMS of the bright one 0.3."""
    k = np.arange(1, max(2, int(_TOP_HZ / hz) + 1))
    levels = k**-voice.slope * np.where(k % 2 == 0, voice.even, 1.0)
    scale = 0.3 / np.sqrt((levels**2).sum() / 2)
    return _period(scale * levels), _period(scale * levels * (k <= voice.dark))


def _period(levels: npt.NDArray[np.float64]) -> Wave:
    """Sines of these levels, harmonic 1 first."""
    spectrum = np.zeros(_TABLE // 2 + 1, np.complex128)
    spectrum[1 : len(levels) + 1] = -0.5j * _TABLE * levels
    return np.asarray(np.fft.irfft(spectrum), np.float32)


def _read(table: Wave, hz: float, count: int) -> Wave:
    turns = np.arange(count) * (hz / RATE_HZ * _TABLE)
    return np.take(table, turns.astype(np.int64) & (_TABLE - 1))
