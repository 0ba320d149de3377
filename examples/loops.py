"""Loops of known tempo: drums, bass and plucked chords, synthesised from numpy alone.

What a loop is made of follows from its arguments only, the seed among them: the same call gives the same samples.
A bar is 4/4 and has 16 steps; `beat 1` is step 0, and swing delays every second eighth or sixteenth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Style = Literal["drum-and-bass", "four-on-the-floor", "boom-bap", "rock", "half-time", "plucked"]
STYLES: tuple[Style, ...] = get_args(Style)
Signal = npt.NDArray[np.float64]

STEPS = 16  # of a bar
_ROOTS_HZ = (41.2, 43.7, 49.0, 55.0, 61.7)  # E1 to B1
_CHORDS = ((0, 4, 7, 12), (-3, 0, 4, 9), (5, 9, 12, 17), (-5, -1, 2, 7))  # semitones: I vi IV V


@dataclass(frozen=True)
class Pattern:
    """Where the parts of a bar strike. An upper-case letter is an accent, a lower-case one soft, a dot a rest."""

    kick: str
    snare: str
    hat: str
    bass: str
    swung: Literal[8, 16] = 16  # which notes swing


_PATTERNS: dict[str, tuple[Pattern, ...]] = {
    "drum-and-bass": (
        Pattern("X.........X.....", "....X.......X...", "X.x.X.x.X.x.X.x.", "X.........X....."),
        Pattern("X.x.......X.....", "....X..x.x..X..x", "X.x.X.x.X.x.X.x.", "X.......X......."),
        Pattern("X.........Xx....", "....X..x....X...", "xxxxxxxxxxxxxxxx", "X.....X...X....."),
    ),
    "four-on-the-floor": (
        Pattern("X...X...X...X...", "....X.......X...", "..X...X...X...X.", "..x...x...x...x."),
        Pattern("X...X...X...X...", "....X.......X..x", "x.X.x.X.x.X.x.X.", "X..x..x.X..x..x."),
    ),
    "boom-bap": (
        Pattern("X..x...x..X.....", "....X.......X...", "X.x.X.x.X.x.X.x.", "X..x......X....."),
        Pattern("X.......x.X.....", "....X.......X..x", "X.x.X.x.X.x.X.x.", "X.......X.x....."),
    ),
    "rock": (
        Pattern("X.......X.......", "....X.......X...", "X.x.X.x.X.x.X.x.", "X.x.X.x.X.x.X.x.", swung=8),
        Pattern("X.....x.X.x.....", "....X.......X...", "X.x.X.x.X.x.X.x.", "X.x.x.x.X.x.x.x.", swung=8),
    ),
    "half-time": (
        Pattern("X.....x.........", "........X.......", "X.x.X.x.X.x.X.x.", "X.....x........."),
        Pattern("X.........x.....", "........X.....x.", "X.xxX.x.X.x.X.xx", "X..............."),
    ),
}


def make_loop(
    bpm: float, bars: int, style: Style, swing: float = 0.0, rate_hz: int = 44_100, seed: int = 0
) -> npt.NDArray[np.float32]:
    """A loop of whole 4/4 bars.

    Args:
        bpm: quarter notes a minute.
        swing: 0 is straight; 1 delays every second note to the last third of its pair (triplets).
        seed: chooses the pattern, the root, the sounds, and how loosely it is played (a few ms).

    Returns:
        [N] float32, peak 0.8; N is `bars * 240 / bpm * rate_hz`, rounded.
    """
    random = np.random.default_rng([seed, STYLES.index(style)])
    length_samples = round(bars * 240.0 / bpm * rate_hz)
    mix = np.zeros(length_samples)
    if style == "plucked":
        _pluck_bars(mix, bpm, bars, swing, rate_hz, random)
    else:
        _drum_bars(mix, _PATTERNS[style], bpm, bars, swing, rate_hz, random)
    mix += random.normal(0.0, 1e-4, length_samples)  # the noise floor of a recording
    return np.asarray(0.8 * mix / np.abs(mix).max(), np.float32)


def _drum_bars(
    mix: Signal,
    patterns: tuple[Pattern, ...],
    bpm: float,
    bars: int,
    swing: float,
    rate_hz: int,
    random: np.random.Generator,
) -> None:
    """Adds drums and bass, one pattern throughout, a ghost note here and there."""
    pattern = patterns[int(random.integers(len(patterns)))]
    root_hz = float(random.choice(_ROOTS_HZ))
    step_s = 60.0 / bpm / 4
    sounds = {
        "kick": (pattern.kick, _kick(rate_hz, random), 1.0),
        "snare": (pattern.snare, _snare(rate_hz, random), random.uniform(0.7, 1.0)),
        "hat": (pattern.hat, _hat(rate_hz, random), random.uniform(0.15, 0.35)),
        "bass": (pattern.bass, _bass(root_hz, 3 * step_s, rate_hz, random), random.uniform(0.3, 0.6)),
    }
    for bar in range(bars):
        for steps, sound, level in sounds.values():
            for step, mark in enumerate(steps):
                if mark == "." or (mark == "x" and random.random() < 0.1):
                    continue
                accent = random.uniform(0.85, 1.0) if mark == "X" else random.uniform(0.35, 0.55)
                at_s = _time_s(bar, step, step_s, swing, pattern.swung) + random.normal(0.0, 0.002)
                _add(mix, sound * (level * accent), at_s, rate_hz)


def _pluck_bars(mix: Signal, bpm: float, bars: int, swing: float, rate_hz: int, random: np.random.Generator) -> None:
    """Adds chords that change with the bar, a bass note on 1 and 3, strummed on the beats and picked between them."""
    root_hz = 4 * float(random.choice(_ROOTS_HZ))
    step_s = 60.0 / bpm / 4
    strummed = random.random() < 0.5
    place = random.uniform(0.15, 0.3)  # where on its length a string is plucked
    strings: dict[float, Signal] = {}
    for bar in range(bars):
        chord_hz = [root_hz * 2 ** (semitone / 12) for semitone in _CHORDS[bar % len(_CHORDS)]]
        for step in range(0, STEPS, 2):
            on_beat = step % 4 == 0
            level = random.uniform(0.8, 1.0) if on_beat else random.uniform(0.3, 0.5)
            notes_hz = chord_hz if strummed and on_beat else [chord_hz[(step // 2) % len(chord_hz)]]
            if step % 8 == 0:
                notes_hz = [chord_hz[0] / 2, *notes_hz]
            for string, note_hz in enumerate(notes_hz):
                at_s = _time_s(bar, step, step_s, swing, 8) + 0.006 * string + random.normal(0.0, 0.003)
                if note_hz not in strings:
                    strings[note_hz] = _string(note_hz, place, 6 * step_s, rate_hz)
                _add(mix, level * strings[note_hz], at_s, rate_hz)


def _time_s(bar: int, step: int, step_s: float, swing: float, swung: int) -> float:
    """When a step sounds; steps between swung eighths or sixteenths move with them."""
    pair = 2 if swung == 16 else 4  # steps in a pair
    place = (step % pair) / pair
    middle = 0.5 + swing / 6  # where the second note of a pair sits
    bent = place * 2 * middle if place < 0.5 else middle + (place - 0.5) * 2 * (1 - middle)
    return (bar * STEPS + step - step % pair + pair * bent) * step_s


def _add(mix: Signal, sound: Signal, at_s: float, rate_hz: int) -> None:
    """Adds a sound to the loop; what rings beyond the end sounds at the beginning, as in a loop that repeats."""
    start = round(at_s * rate_hz) % len(mix)
    before_end = len(mix) - start
    mix[start : start + len(sound)] += sound[:before_end]
    mix[: max(0, len(sound) - before_end)] += sound[before_end:]


def _times(duration_s: float, rate_hz: int) -> Signal:
    return np.arange(round(duration_s * rate_hz)) / rate_hz


def _kick(rate_hz: int, random: np.random.Generator) -> Signal:
    t = _times(0.25, rate_hz)
    low_hz, sweep_hz = random.uniform(42, 60), random.uniform(80, 180)
    phase = 2 * np.pi * (low_hz * t + sweep_hz * 0.03 * (1 - np.exp(-t / 0.03)))
    click = 0.2 * random.normal(size=len(t)) * np.exp(-t / 0.002)
    return np.asarray((np.sin(phase) + click) * np.exp(-t / random.uniform(0.06, 0.12)))


def _snare(rate_hz: int, random: np.random.Generator) -> Signal:
    t = _times(0.25, rate_hz)
    tone = np.sin(2 * np.pi * random.uniform(160, 230) * t) * np.exp(-t / 0.04)
    noise = random.normal(size=len(t)) * np.exp(-t / random.uniform(0.05, 0.1))
    return np.asarray(0.6 * tone + 0.5 * noise)


def _hat(rate_hz: int, random: np.random.Generator) -> Signal:
    t = _times(0.08, rate_hz)
    noise = random.normal(size=len(t))
    bright = noise - 2 * np.roll(noise, 1) + np.roll(noise, 2)  # twice differentiated: treble only
    return np.asarray(0.4 * bright * np.exp(-t / random.uniform(0.01, 0.03)))


def _bass(root_hz: float, duration_s: float, rate_hz: int, random: np.random.Generator) -> Signal:
    t = _times(duration_s, rate_hz)
    tone = sum(np.sin(2 * np.pi * root_hz * k * t) / k**1.5 for k in range(1, int(random.integers(4, 9))))
    return np.asarray(tone * np.minimum(1.0, t / 0.005) * np.exp(-t / (0.6 * duration_s)))


def _string(note_hz: float, place: float, duration_s: float, rate_hz: int) -> Signal:
    """A plucked string: harmonics that die the sooner the higher they are."""
    t = _times(duration_s, rate_hz)
    tone = np.zeros(len(t))
    for k in range(1, 13):
        if k * note_hz < 0.45 * rate_hz:
            tone += np.sin(np.pi * k * place) / k * np.sin(2 * np.pi * k * note_hz * t) * np.exp(-t * k * 1.5)
    return tone * np.minimum(1.0, t / 0.002)
