"""Tempo, octave and bars, on synthesised loops whose seeds took no part in fitting the weights (0 to 119 did)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.loops import STYLES, Style, make_loop
from gary.audio.clip import Clip
from gary.audio.tempo import Tempo, bar_samples, choose_bars, estimate_tempo, warm_up
from gary.errors import InvalidInput

USUAL_BPM: dict[Style, tuple[float, float]] = {
    "drum-and-bass": (160, 180),
    "four-on-the-floor": (105, 150),
    "boom-bap": (65, 105),
    "rock": (70, 170),
    "half-time": (130, 170),
    "plucked": (65, 140),
}
SWINGS = (0.0, 0.0, 0.5, 1.0)
RATES_HZ = (22_050, 44_100)


def hear(style: Style, bpm: float, seed: int, duration_s: float = 12.0) -> Tempo:
    rate_hz, swing = RATES_HZ[seed % 2], SWINGS[seed % 4]
    bars = math.ceil(duration_s * bpm / 240)
    loop = make_loop(bpm, bars, style, swing, rate_hz, seed)[: round(duration_s * rate_hz)]
    tempo = estimate_tempo(Clip(loop[None], rate_hz))
    assert tempo is not None, (style, bpm, seed)
    return tempo


def test_tempo_and_bar_length_on_the_whole_range() -> None:
    """60 to 180 bpm, straight and swung: 95 % within 4 % or an octave, 90 % with the bar itself within 0.5 %."""
    ratios = np.array(
        [
            hear(style, float(bpm), 5000 + index).bpm / bpm
            for style in STYLES
            if style != "half-time"  # whose bar has two right lengths
            for index, bpm in enumerate(np.linspace(60, 180, 16))
        ]
    )
    octave = np.any([np.abs(ratios * factor - 1) < 0.04 for factor in (0.5, 1, 2)], axis=0)
    assert octave.mean() >= 0.95
    assert (np.abs(ratios - 1) < 0.005).mean() >= 0.9


@pytest.mark.parametrize("style", [style for style in STYLES if style != "half-time"])
def test_bar_length_where_each_style_lives(style: Style) -> None:
    """At the tempi usual for a style, 9 of 10 loops have the right bar."""
    found = [(hear(style, float(bpm), 6000 + i).bpm, bpm) for i, bpm in enumerate(np.linspace(*USUAL_BPM[style], 10))]
    assert sum(abs(bpm / true_bpm - 1) < 0.005 for bpm, true_bpm in found) >= 9, found


def test_half_time_is_one_of_its_two_tempi() -> None:
    """A half-time beat is heard at its own tempo or at half of it, and at nothing else."""
    for index, true_bpm in enumerate(np.linspace(*USUAL_BPM["half-time"], 6)):
        ratio = hear("half-time", float(true_bpm), 7000 + index).bpm / true_bpm
        assert min(abs(ratio - 1), abs(2 * ratio - 1)) < 0.005, (true_bpm, ratio)


def test_drum_and_bass_is_not_halved() -> None:
    """Fault 11 of the old backend: a break at 174 bpm has bars of 1.379 s, not 2.759 s."""
    assert hear("drum-and-bass", 174.0, 8000, duration_s=30.0).bpm == 174.0


def test_stereo_and_loudness_do_not_matter() -> None:
    """A quiet loop on one side of a stereo clip has the tempo of the loud mono one."""
    loop = make_loop(128.0, 6, "four-on-the-floor", seed=9)
    one_side = np.stack([0.01 * loop, np.zeros_like(loop)])
    loud, quiet = estimate_tempo(Clip(loop[None], 44_100)), estimate_tempo(Clip(one_side, 44_100))
    assert loud is not None
    assert quiet is not None
    assert quiet.bpm == pytest.approx(loud.bpm, rel=1e-3)


@pytest.mark.parametrize("kind", ["silence", "constant", "noise", "tone", "too short"])
def test_no_beat_no_tempo(kind: str) -> None:
    """What has no beat has no tempo, rather than a made-up one."""
    time_s = np.arange(20 * 22_050) / 22_050
    by_kind: dict[str, npt.NDArray[np.floating]] = {
        "silence": np.zeros_like(time_s),
        "constant": np.full_like(time_s, 0.5),
        "noise": np.random.default_rng(1).normal(0, 0.1, time_s.size),
        "tone": 0.5 * np.sin(2 * np.pi * 220 * time_s),
        "too short": make_loop(120, 1, "rock", rate_hz=22_050)[:22_050],
    }
    assert estimate_tempo(Clip(by_kind[kind][None].astype(np.float32), 22_050)) is None


def test_read_only_samples_are_enough() -> None:
    """Samples from the object store cannot be written to; nothing here tries."""
    loop = make_loop(100.0, 5, "rock", seed=3)[None]
    loop.flags.writeable = False
    assert estimate_tempo(Clip(loop, 44_100)) is not None


def test_warm_up_needs_nothing() -> None:
    """A replica may pay for the first call before it has any audio."""
    warm_up()


@given(
    bpm=st.floats(40, 240),
    min_s=st.floats(0.1, 30),
    width_s=st.floats(0, 29.9),
)
def test_bars_lie_in_the_range_when_any_do(bpm: float, min_s: float, width_s: float) -> None:
    """Whole bars within the range; else as many as fit under the maximum; never none."""
    max_s = min(30.0, min_s + width_s)
    bars = choose_bars(bpm, min_s, max_s)
    assert bars.length_s == bars.count * 240 / bpm
    fitting = [count for count in range(1, 200) if min_s <= count * 240 / bpm <= max_s]
    if fitting:
        assert bars.count in fitting
    else:
        assert bars.count == max(1, math.floor(max_s * bpm / 240))
    if 240 / bpm <= max_s:
        assert bars.length_s <= max_s


@pytest.mark.parametrize(
    ("bpm", "min_s", "max_s", "count"),
    [
        (120, 16, 18, 8),  # 8 and 9 fit: 8 is the rounder phrase
        (174, 16, 18, 12),  # 12 and 13
        (120, 16, 17.9, 8),  # the minimum itself is in the range
        (60, 16, 16, 4),
        (60, 13, 15, 3),  # none fits: 12 s is the most under 15 s
        (60, 1, 2, 1),  # not even one fits
        (80, 30, 30, 10),
    ],
)
def test_bars_of_common_tempi(bpm: float, min_s: float, max_s: float, count: int) -> None:
    """Worked examples."""
    assert choose_bars(bpm, min_s, max_s).count == count


@pytest.mark.parametrize(
    ("bpm", "min_s", "max_s"),
    [(120, 18, 16), (120, 0, 16), (120, 16, 31), (120, math.nan, 16), (120, 16, math.inf), (0, 16, 18), (7.9, 16, 18)],
)
def test_impossible_ranges_are_refused(bpm: float, min_s: float, max_s: float) -> None:
    """A range that is reversed, empty, beyond 30 s or no range is the client's fault."""
    with pytest.raises(InvalidInput) as caught:
        choose_bars(bpm, min_s, max_s)
    assert caught.value.code == "bad_range"


def test_bar_samples_round_once() -> None:
    """The error over many bars is under one sample, not one per bar."""
    assert bar_samples(174, 1, 44_100) == 60_828  # 60827.59
    assert bar_samples(174, 100, 44_100) == 6_082_759  # 6082758.6
    assert bar_samples(120, 8, 32_000) == 512_000
