"""The measures on signals whose answer is known: a loop that goes on is in time and in key, another one is not."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from benchmarks.demo_model import ASKED, Piece, figures_of, through_mp3
from gary.audio.clip import Samples
from training.grid import RATE_HZ, bar_samples
from training.holes import has_hole
from training.judge import judge_renderings, judged_loops
from training.loops import Loop, loops
from training.measures import (
    beat_error_ms,
    brightness,
    key_above_shuffled,
    mel_distance_db,
    resampled_through,
    si_sdr_db,
    tempo_is,
)

PROMPT_S, MORE_S = 6, 8
DRUMMED = list(islice((loop for loop in loops("held-out") if len(loop.score.parts) >= 3), 24))


def before(loop: Loop) -> Samples:
    return loop.played(PROMPT_S * RATE_HZ)


def after(loop: Loop, late_samples: int = 0) -> Samples:
    return loop.played(MORE_S * RATE_HZ, PROMPT_S * RATE_HZ - late_samples)


def test_tempo_kept_by_what_goes_on_and_not_by_others() -> None:
    """The loop itself, carried on, has its tempo; another loop mostly has another."""
    with_drums = [loop for loop in DRUMMED if "drums" in loop.score.parts]
    own = [tempo_is(after(loop), RATE_HZ, loop.bpm) for loop in with_drums]
    shuffled = [
        tempo_is(after(other), RATE_HZ, loop.bpm)
        for loop, other in zip(with_drums, np.roll(np.array(with_drums, object), 1), strict=True)
    ]
    assert np.mean(own) >= 0.75
    assert np.mean(own) - np.mean(shuffled) >= 0.4


@pytest.mark.parametrize("late_ms", [0, 60, 120])
def test_beat_error_is_how_late_it_is(late_ms: int) -> None:
    """A continuation that comes so many milliseconds late is found to; in the median, to 12 ms."""
    late = late_ms * RATE_HZ // 1000
    errors = [
        beat_error_ms(after(loop, late), before(loop), RATE_HZ, loop.bpm, PROMPT_S * RATE_HZ)
        for loop in DRUMMED
        if "drums" in loop.score.parts
    ]
    assert abs(float(np.median(errors)) - late_ms) <= 12


def test_beat_error_by_chance_is_far_off() -> None:
    """A piece that begins anywhere in its bar is out of time by more than the gate allows."""
    random = np.random.default_rng(0)
    errors = [
        beat_error_ms(
            after(loop, int(random.integers(bar_samples(loop.score.step_frames)))),
            before(loop),
            RATE_HZ,
            loop.bpm,
            PROMPT_S * RATE_HZ,
        )
        for loop in DRUMMED
    ]
    assert float(np.median(errors)) > 80


def test_key_is_nearer_to_its_own_prompt() -> None:
    """Loops carried on are in their own key; paired with the next loop's prompt, they are nearer to another."""
    tonal = [loop for loop in DRUMMED if "chords" in loop.score.parts]
    befores, afters = [before(loop) for loop in tonal], [after(loop) for loop in tonal]
    own = key_above_shuffled(afters, befores, RATE_HZ)
    assert own >= 0.85
    assert key_above_shuffled(afters, befores[1:] + befores[:1], RATE_HZ) < own - 0.2


@pytest.mark.parametrize(("hole_ms", "level", "expected"), [(400, 0.0, True), (250, 0.0, False), (400, 0.01, False)])
def test_holes(hole_ms: int, level: float, expected: bool) -> None:
    """A hole is longer than 300 ms and below -50 dBFS; quiet music is none."""
    tone = 0.3 * np.sin(np.arange(RATE_HZ) * 0.05).astype(np.float32)
    tone[8000 : 8000 + hole_ms * 32] *= level / 0.3
    assert has_hole(tone, RATE_HZ) is expected


def test_brightness_tells_drums_from_chords() -> None:
    """The median loop of drums alone is far brighter than that of bass and chords."""
    by_parts = {
        parts: [loop for loop in islice(loops("held-out"), 120) if loop.score.parts == parts][:8]
        for parts in (("drums",), ("bass", "chords"))
    }
    drums, tones = (np.median([brightness(after(loop), RATE_HZ) for loop in some]) for some in by_parts.values())
    assert drums > 2 * tones


def test_distances_grow_with_what_is_lost() -> None:
    """Nothing lost is no distance; a resample loses less at 16 kHz than at 8 kHz; the level itself is no distortion."""
    wave = after(DRUMMED[0])
    gentle, rough = (resampled_through(wave, RATE_HZ, low_hz) for low_hz in (16_000, 8000))
    assert mel_distance_db(wave, wave, RATE_HZ) == 0
    assert 0 < mel_distance_db(gentle, wave, RATE_HZ) < mel_distance_db(rough, wave, RATE_HZ)
    assert si_sdr_db(np.float32(0.5) * wave, wave) > 60
    assert si_sdr_db(gentle, wave) > si_sdr_db(rough, wave) > 0


def test_renderings_are_judged_by_what_they_lose() -> None:
    """What loses nothing keeps every tempo; noise instead of the music keeps none, and is far off in every figure."""
    judged = judged_loops(6)
    random = np.random.default_rng(0)
    same = judge_renderings(lambda wave: wave, judged)
    noise = judge_renderings(lambda wave: random.normal(0, 0.1, len(wave)).astype(np.float32), judged)
    assert same["tempo_ratio"] == 1
    assert same["mel_distance_db"] == 0
    assert noise["tempo_ratio"] <= 0.2
    assert noise["mel_distance_db"] > 10
    assert noise["si_sdr_db"] < -10 < same["si_sdr_db"]


def test_an_mp3_is_where_it_was_in_time() -> None:
    """A coder's delay is taken out, so that its SI-SDR is its own; an MP3 of 32 kbit/s has some 15 to 25 dB."""
    wave = after(DRUMMED[0])
    made = through_mp3(wave)
    assert made.shape == wave.shape
    assert 10 < si_sdr_db(made, wave) < 40


def test_a_model_that_carries_on_perfectly_has_every_figure() -> None:
    """The benchmark's own figures on the loops themselves hold what is asked of the model."""
    judged = judged_loops(12)
    figures = figures_of([Piece(loop, loop.played(MORE_S * RATE_HZ, Piece.start_sample)) for loop in judged])
    assert figures["tempo_kept"] >= ASKED["tempo_kept"]
    assert figures["tempo_kept"] - figures["tempo_kept_shuffled"] >= 0.4
    assert figures["beat_error_ms"] < ASKED["beat_error_ms"]
    assert figures["key_above_shuffled"] >= ASKED["key_above_shuffled"]
    assert figures["holes"] == 0
