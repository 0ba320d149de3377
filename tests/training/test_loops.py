"""The generator of loops: same numbers, same music; on the grid; and true about itself."""

from __future__ import annotations

import math
from itertools import islice

import librosa
import numpy as np

from training.grid import FRAME_SAMPLES, RATE_HZ, STEP_FRAMES, bar_samples, bpm_of
from training.holes import has_hole
from training.loops import Loop, loops, make_loop
from training.measures import chroma, tempo_is
from training.styles import MODES, STYLES

LOOPS = list(islice(loops(), 60))


def of_style(name: str, count: int) -> list[Loop]:
    found = (loop for loop in loops("held-out") if loop.score.style.name == name and "drums" in loop.score.parts)
    return list(islice(found, count))


def test_a_number_is_a_loop() -> None:
    """The same number gives the same samples and the same truth, whatever was made before."""
    again = make_loop(7)
    assert np.array_equal(again.samples, LOOPS[7].samples)
    assert again.score == LOOPS[7].score


def test_held_out_loops_are_never_trained_on() -> None:
    """The two families are drawn from different streams: the same number gives other music."""
    for number in range(10):
        held_out = make_loop(number, "held-out")
        assert held_out.score != LOOPS[number].score
        assert not any(np.array_equal(held_out.samples, loop.samples) for loop in LOOPS)


def test_everything_lies_on_the_grid() -> None:
    """Bars and sixteenths are whole frames, at every tempo of every style; a loop is whole bars."""
    assert {frames for style in STYLES for frames in style.step_frames} <= set(STEP_FRAMES)
    for loop in LOOPS:
        assert bar_samples(loop.score.step_frames) % (16 * FRAME_SAMPLES) == 0
        assert len(loop.samples) == loop.score.bars * bar_samples(loop.score.step_frames)
        assert loop.bpm == bpm_of(loop.score.step_frames)
        assert math.isclose(bar_samples(loop.score.step_frames) / RATE_HZ, 240 / loop.bpm)


def test_samples_are_sane() -> None:
    """Finite, no constant, a peak below full scale, and no hole."""
    for loop in LOOPS:
        assert np.isfinite(loop.samples).all()
        assert 0.3 < np.abs(loop.samples).max() < 1
        assert abs(float(loop.samples.mean())) < 0.01
        assert not has_hole(loop.played(2 * len(loop.samples)), RATE_HZ)


def test_a_loop_goes_round_without_a_seam() -> None:
    """What is played from any sample on is the cycle again and again."""
    loop = LOOPS[0]
    played = loop.played(3 * len(loop.samples), start_sample=-5)
    assert np.array_equal(played[5 : 5 + len(loop.samples)], loop.samples)
    assert np.array_equal(played[: len(loop.samples)], played[len(loop.samples) : 2 * len(loop.samples)])


def test_the_truth_about_beats_is_heard() -> None:
    """On four to the floor, librosa's beats are ours: their spacing is, within 4 %, at least in nine of ten."""
    heard = []
    for loop in of_style("house", 10):
        _, beats = librosa.beat.beat_track(
            y=loop.played(12 * RATE_HZ), sr=RATE_HZ, units="time", start_bpm=loop.bpm, tightness=400
        )
        spacing_s = float(np.median(np.diff(beats)))
        heard.append(abs(spacing_s / float(np.diff(loop.beats_s(12.0))[0]) - 1) < 0.04)
    assert sum(heard) >= 9


def test_the_tempo_is_found() -> None:
    """House, and drum and bass, have the tempo that they say."""
    for style in ("house", "drum and bass"):
        easy = of_style(style, 8)
        assert sum(tempo_is(loop.played(12 * RATE_HZ), RATE_HZ, loop.bpm) for loop in easy) >= 7, style


def test_the_truth_about_the_key_is_heard() -> None:
    """Without drums, more of the sound lies on the seven notes of the mode than chance would have it."""
    tonal = [loop for loop in LOOPS if loop.score.parts == ("bass", "chords")][:5]
    assert tonal
    for loop in tonal:
        heard = chroma(loop.played(8 * RATE_HZ), RATE_HZ)
        of_key = [(loop.score.root + semitone) % 12 for semitone in MODES[loop.score.mode]]
        assert heard[of_key].sum() > 0.5, loop.description


def test_descriptions_say_what_is_played() -> None:
    """Most name their parts, all of them something, and no two of sixty styles and keys are told alike."""
    assert all(loop.description for loop in LOOPS)
    naming = [loop for loop in LOOPS if loop.score.parts[-1] in loop.description]
    assert len(naming) >= 0.8 * len(LOOPS)
    assert len({loop.description for loop in LOOPS}) > 40
