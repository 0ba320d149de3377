"""What is played: a cycle of one, two or four bars, drawn by a random generator. Integers and names, no sample.

A score is the truth about a loop: its grid, its key, its parts, and the words that describe it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.grid import STEPS, bar_samples, bpm_of
from training.styles import MODES, PROGRESSIONS, STYLES, Beat, Style

ROOTS = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
PARTS = ("drums", "bass", "chords", "lead")
_TOGETHER = (
    (("drums", "bass", "chords", "lead"), 0.27),
    (("drums", "bass", "chords"), 0.22),
    (("drums", "bass"), 0.1),
    (("drums",), 0.13),
    (("drums", "chords"), 0.06),
    (("drums", "bass", "lead"), 0.07),
    (("drums", "lead"), 0.03),
    (("bass", "chords"), 0.12),
)  # which parts play together, and how often


@dataclass(frozen=True)
class Note:
    """One note of bass, chords or lead.

    Attributes:
        step: of the cycle, in sixteenths.
        pitch: MIDI number, 69 is A at 440 Hz.
        length_steps: how long it is held.
        level: 0 to 1.
    """

    step: int
    pitch: int
    length_steps: int
    level: float


@dataclass(frozen=True)
class Stroke:
    """One stroke of a drum ("kick", "snare", "hat", "open_hat") at a step of the cycle."""

    step: int
    drum: str
    level: float


@dataclass(frozen=True)
class Score:
    """A cycle, which repeats.

    Attributes:
        step_frames, swing_frames: of a sixteenth, and of the delay of every second one.
        root: semitones above C.
        strokes, notes: of the parts that play; `notes` by part.
    """

    style: Style
    step_frames: int
    swing_frames: int
    bars: int
    root: int
    mode: str
    parts: tuple[str, ...]
    strokes: tuple[Stroke, ...]
    notes: dict[str, tuple[Note, ...]]
    description: str

    @property
    def bpm(self) -> float:
        return bpm_of(self.step_frames)

    @property
    def length_samples(self) -> int:
        return self.bars * bar_samples(self.step_frames)


def write_score(random: np.random.Generator) -> Score:
    """Draws a style, and from it a score."""
    style = STYLES[int(random.integers(len(STYLES)))]
    step_frames = int(random.choice(style.step_frames))
    bars = int(random.choice((1, 2, 4), p=_bars_shares(step_frames)))
    root, mode = int(random.integers(12)), str(random.choice(style.modes))
    progressions = PROGRESSIONS[mode]
    degrees = progressions[int(random.integers(len(progressions)))][:bars]
    parts = _parts(style, random)
    strokes = _strokes(style.beats[int(random.integers(len(style.beats)))], bars, random) if "drums" in parts else ()
    notes: dict[str, tuple[Note, ...]] = {}
    if "bass" in parts:
        notes["bass"] = _bass(str(random.choice(style.bass)), degrees, root, mode, random)
    if "chords" in parts:
        notes["chords"] = _chords(str(random.choice(style.chords)), degrees, root, mode, random)
    if "lead" in parts:
        notes["lead"] = _lead(str(random.choice(style.lead)), degrees, root, mode, random)
    return Score(
        style=style,
        step_frames=step_frames,
        swing_frames=int(random.choice(style.swing_frames)),
        bars=bars,
        root=root,
        mode=mode,
        parts=parts,
        strokes=strokes,
        notes=notes,
        description=_describe(style, bpm_of(step_frames), parts, f"{ROOTS[root]} {mode}", random),
    )


def _bars_shares(step_frames: int) -> tuple[float, float, float]:
    """How often a cycle has 1, 2 or 4 bars: most are heard whole in a prompt of 6 s."""
    if step_frames == 4:
        return 0.2, 0.4, 0.4
    return (0.35, 0.6, 0.05) if step_frames < 9 else (0.5, 0.5, 0.0)


def words_for(parts: tuple[str, ...]) -> str:
    """ "drums only", "bass and chords", "drums, bass and chords"."""
    if len(parts) == 1:
        return f"{parts[0]} only"
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _parts(style: Style, random: np.random.Generator) -> tuple[str, ...]:
    if random.random() < style.drumless:
        return ("bass", "chords", "lead") if random.random() < 0.4 else ("bass", "chords")
    chosen = random.choice(len(_TOGETHER), p=[share for _, share in _TOGETHER])
    return _TOGETHER[int(chosen)][0]


def _strokes(beat: Beat, bars: int, random: np.random.Generator) -> tuple[Stroke, ...]:
    """One beat throughout; the last of several bars ends in a fill more often than not."""
    strokes = []
    fill = bars > 1 and random.random() < 0.6
    levels = {"kick": 1.0, "snare": 0.85, "hat": random.uniform(0.42, 0.65), "open_hat": random.uniform(0.4, 0.6)}
    soft = random.uniform(0.4, 0.6)
    for bar in range(bars):
        for drum, level in levels.items():
            for step, mark in enumerate(getattr(beat, drum)):
                if mark != "." and not (fill and bar == bars - 1 and step >= 12 and drum == "snare"):
                    strokes.append(Stroke(bar * STEPS + step, drum, level * (1.0 if mark == "X" else soft)))
    if fill:
        first = (bars - 1) * STEPS + 12
        marks = random.random(4) < 0.7
        strokes += [Stroke(first + step, "snare", 0.4 + 0.12 * step) for step in range(4) if marks[step]]
    return tuple(strokes)


def _bass(rhythm: str, degrees: tuple[int, ...], root: int, mode: str, random: np.random.Generator) -> tuple[Note, ...]:
    """The chord's root, on soft strokes sometimes its fifth or octave."""
    soft = int(random.choice((0, 0, 4, 7)))  # degrees above; 7 is the octave
    return tuple(
        Note(
            bar * STEPS + step,
            _pitch(degree + (0 if mark == "X" else soft), root, mode, lowest=28),
            length,
            0.9 if mark == "X" else 0.65,
        )
        for bar, degree in enumerate(degrees)
        for step, mark, length in _marks(rhythm)
    )


def _chords(
    rhythm: str, degrees: tuple[int, ...], root: int, mode: str, random: np.random.Generator
) -> tuple[Note, ...]:
    """Triads or sevenths in close position, all notes of a chord together."""
    thirds = (0, 2, 4, 6) if random.random() < 0.4 else (0, 2, 4)
    lowest = int(random.choice((48, 52, 55)))
    return tuple(
        Note(bar * STEPS + step, _pitch(degree + third, root, mode, lowest), length, 0.9 if mark == "X" else 0.6)
        for bar, degree in enumerate(degrees)
        for step, mark, length in _marks(rhythm)
        for third in thirds
    )


def _lead(rhythm: str, degrees: tuple[int, ...], root: int, mode: str, random: np.random.Generator) -> tuple[Note, ...]:
    """A motif of chord notes and their neighbours, the same over every chord."""
    strokes = list(_marks(rhythm))
    motif = random.choice((0, 2, 4, 1, 6), size=len(strokes), p=(0.3, 0.25, 0.25, 0.1, 0.1))
    return tuple(
        Note(bar * STEPS + step, _pitch(degree + int(above), root, mode, 67), min(length, 4), 0.6 + 0.3 * (mark == "X"))
        for bar, degree in enumerate(degrees)
        for (step, mark, length), above in zip(strokes, motif, strict=True)
    )


def _marks(rhythm: str) -> list[tuple[int, str, int]]:
    """(step, mark, steps until the next) of a bar."""
    at = [step for step, mark in enumerate(rhythm) if mark != "."]
    return [(step, rhythm[step], after - step) for step, after in zip(at, [*at[1:], STEPS], strict=True)]


def _pitch(degree: int, root: int, mode: str, lowest: int) -> int:
    """The mode's degree in the octave that begins at `lowest`, a MIDI number."""
    semitone = root + MODES[mode][degree % 7]
    return lowest + (semitone - lowest) % 12


def _describe(style: Style, bpm: float, parts: tuple[str, ...], key: str, random: np.random.Generator) -> str:
    """Words in any order, some left out, as people would."""
    words = [style.name, words_for(parts)]
    if random.random() < 0.15:
        words.pop(int(random.integers(2)))
    if random.random() < 0.5:
        words.append(str(random.choice(style.moods)))
    if random.random() < 0.4:
        words.append(f"{round(bpm)} bpm")
    if random.random() < 0.4:
        words.append(key)
    return ", ".join(words[index] for index in random.permutation(len(words)))
