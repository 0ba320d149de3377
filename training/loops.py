"""An endless supply of loops with the truth about each. A loop follows from its split and its number alone.

Training and held-out loops are drawn from two families of random streams: no number of the one gives a loop of the
other. A loop is one cycle of bars; played on, it repeats without a seam, and its codes repeat with it (`grid.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np
import numpy.typing as npt

from training.drums import Wave, make_drums
from training.grid import FRAME_SAMPLES, RATE_HZ, bar_samples
from training.holes import has_hole
from training.room import add_echo, add_room, pump, saturate
from training.score import Note, Score, write_score
from training.tones import VOICES, Voice, play, varied

Split = Literal["train", "held-out"]
_STREAMS: dict[Split, int] = {"train": 1, "held-out": 2}
_LEVELS = {"bass": 0.75, "chords": 0.42, "lead": 0.4}
_NOISE = 1e-4  # the floor of a recording, -80 dB: log spectra of true silence say nothing


@dataclass(frozen=True, eq=False)
class Loop:
    """One cycle, and the truth about it.

    Attributes:
        samples: [N] float32 at `RATE_HZ`, whole bars.
        score: what was played.
    """

    samples: Wave
    score: Score

    @property
    def description(self) -> str:
        return self.score.description

    @property
    def bpm(self) -> float:
        return self.score.bpm

    def played(self, length_samples: int, start_sample: int = 0) -> Wave:
        """A stretch of the music that repeats for ever, [length_samples] float32."""
        start = start_sample % len(self.samples)
        rounds = -(-(start + length_samples) // len(self.samples))
        return np.tile(self.samples, rounds)[start : start + length_samples]

    def beats_s(self, duration_s: float) -> npt.NDArray[np.float64]:
        """When beats fall within so many seconds from the beginning; every fourth begins a bar."""
        return np.arange(0, duration_s, 60 / self.bpm)

    def bars_s(self, duration_s: float) -> npt.NDArray[np.float64]:
        return np.arange(0, duration_s, 240 / self.bpm)


def make_loop(number: int, split: Split = "train") -> Loop:
    """The loop of that number: the first of those drawn for it that has no hole, also where it begins anew."""
    drawn = (_draw(np.random.default_rng([_STREAMS[split], number, attempt])) for attempt in count())
    return next(loop for loop in drawn if not has_hole(loop.played(2 * len(loop.samples)), RATE_HZ))


def _draw(random: np.random.Generator) -> Loop:
    score = write_score(random)
    return Loop(render(score, random), score)


def loops(split: Split = "train", first: int = 0) -> Iterator[Loop]:
    """Loops without end, from number `first` on."""
    return (make_loop(number, split) for number in count(first))


def render(score: Score, random: np.random.Generator) -> Wave:
    """The sound of a score, [N] float32; peak 0.35 to 0.95."""
    drums = _drums(score, random)
    tones = np.zeros(score.length_samples, np.float32)
    choices = {"bass": score.style.bass_voices, "chords": score.style.chord_voices, "lead": score.style.lead_voices}
    for part, notes in score.notes.items():
        voice = varied(VOICES[str(random.choice(choices[part]))], random)
        bus = _notes(score, notes, voice)
        if part == "lead" and random.random() < 0.4:
            bus = add_echo(bus, 3 * score.step_frames * FRAME_SAMPLES, random.uniform(0.2, 0.45))
        tones += _LEVELS[part] * np.float32(random.uniform(0.75, 1.2)) * bus
    if score.style.pump and "drums" in score.parts:
        tones = pump(tones, bar_samples(score.step_frames) // 4, score.style.pump * random.uniform(0.6, 1.0))
    mix = drums + tones
    if random.random() < 0.7:
        mix = add_room(mix, random.uniform(0.1, 0.6), random.uniform(0.1, 0.5), random)
    mix /= max(float(np.abs(mix).max()), 1e-6)
    if random.random() < 0.6:
        mix = saturate(mix, random.uniform(0.8, 2.2))
    mix *= np.float32(random.uniform(0.35, 0.95))
    return mix + np.float32(_NOISE) * random.standard_normal(len(mix), np.float32)


def _drums(score: Score, random: np.random.Generator) -> Wave:
    bus = np.zeros(score.length_samples, np.float32)
    if not score.strokes:
        return bus
    kit = make_drums(random)
    for stroke in score.strokes:
        _add(bus, kit[stroke.drum], _start(score, stroke.step), stroke.level)
    return bus


def _notes(score: Score, notes: tuple[Note, ...], voice: Voice) -> Wave:
    bus = np.zeros(score.length_samples, np.float32)
    step_s = score.step_frames * FRAME_SAMPLES / RATE_HZ
    sounds: dict[tuple[int, int], Wave] = {}  # a note that returns is made once
    for note in notes:
        name = note.pitch, note.length_steps
        if name not in sounds:
            sounds[name] = play(voice, note.pitch, note.length_steps * step_s)
        _add(bus, sounds[name], _start(score, note.step), note.level)
    return bus


def _start(score: Score, step: int) -> int:
    """The first sample of a step; every second one may swing, by whole frames."""
    return (step * score.step_frames + (step % 2) * score.swing_frames) * FRAME_SAMPLES


def _add(bus: Wave, sound: Wave, start: int, level: float) -> None:
    """Adds a sound to a cycle; what rings beyond the end sounds at the beginning."""
    sound = sound[: len(bus)]
    before_end = len(bus) - start
    bus[start : start + len(sound)] += np.float32(level) * sound[:before_end]
    bus[: max(0, len(sound) - before_end)] += np.float32(level) * sound[before_end:]
