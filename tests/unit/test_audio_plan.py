"""Lengths of new music: bars are whole, ranges are kept, and a prompt is whole frames from the side that was asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from gary.audio.plan import (
    ASSUMED_BPM,
    LengthWish,
    Side,
    decode_side,
    make_music_plan,
    plan_length,
    take_prompt,
    whole_frames_s,
)
from gary.audio.tempo import Tempo
from gary.config import Limits
from gary.errors import SourceError, TooLarge

LIMITS = Limits()
RATE_HZ = 8_000


def ramp(duration_s: float) -> Clip:
    """Every sample tells its place, as far as 16 bits reach; no beat is heard in it."""
    integers = np.arange(round(duration_s * RATE_HZ)) // 32
    return Clip((integers / 32768).astype(np.float32)[None], RATE_HZ)


@pytest.mark.parametrize(
    ("side", "start_s", "duration_s", "prompt_s", "expected"),
    [
        ("cursor", 40.0, 100.0, 6.0, (40.0, 46.0)),
        ("cursor", 97.123, 100.0, 6.0, (97.123, 97.123 + 2.86)),  # whole frames of what is left
        ("head", 40.0, 100.0, 6.0, (0.0, 6.0)),
        ("tail", 40.0, 100.0, 6.0, (94.0, 100.0)),
        ("tail", 0.0, 3.507, 6.0, (0.007, 3.507)),  # to the very end
        ("head", 0.0, 3.507, 6.0, (0.0, 3.5)),
    ],
)
async def test_the_prompt_lies_where_it_was_asked_for(
    side: Side, start_s: float, duration_s: float, prompt_s: float, expected: tuple[float, float]
) -> None:
    """To the sample, of every side; its length is told as it was taken."""
    clip = ramp(duration_s)
    source = await decode_side(encode_wav(clip), side, start_s, prompt_s, LIMITS)
    plan = make_music_plan(source, prompt_s, LengthWish(seconds=5), 120)
    prompt = take_prompt(source, plan)
    start, end = (round(place_s * RATE_HZ) for place_s in expected)
    assert np.array_equal(prompt.samples, clip.samples[:, start:end])
    assert plan.prompt_s == pytest.approx(prompt.duration_s, abs=1e-9)
    assert plan.new_s == 5


async def test_a_cursor_past_the_end() -> None:
    """Nothing is left there."""
    with pytest.raises(SourceError):
        await decode_side(encode_wav(ramp(10)), "cursor", 10.0, 6.0, LIMITS)


async def test_a_tempo_is_heard_in_the_end_too() -> None:
    """Bars follow the tempo of what is heard, on any side."""
    loop = Clip(make_loop(100, 16, "rock")[None], 44_100)
    for side in ("head", "tail"):
        source = await decode_side(encode_wav(loop), side, 0.0, 6.0, LIMITS)
        plan = make_music_plan(source, 6.0, LengthWish(bars=4), 120)
        assert plan.tempo_bpm == pytest.approx(100, rel=0.01)
        assert plan.new_s == pytest.approx(9.6, rel=0.01)
        assert (plan.bars, plan.tempo_assumed) == (4, False)


TEMPO = Tempo(100.0, 0.7)
PLANS = {
    "seconds": (LengthWish(seconds=7.5), TEMPO, (7.5, None, False)),
    "bars": (LengthWish(bars=4), TEMPO, (9.6, 4, False)),
    "bars of a tempo": (LengthWish(bars=4, tempo_bpm=60), None, (16.0, 4, False)),
    "bars without a beat": (LengthWish(bars=4), None, (4 * 240 / ASSUMED_BPM, 4, True)),
    "a range": (LengthWish(min_s=16, max_s=20), TEMPO, (19.2, 8, False)),
    "a range beyond the window": (LengthWish(min_s=60, max_s=80), TEMPO, (76.8, 32, False)),
    "a range of a tempo": (LengthWish(min_s=16, max_s=20, tempo_bpm=120), None, (16.0, 8, False)),
    "a range without a beat": (LengthWish(min_s=16, max_s=20), None, (20.0, None, False)),
}


@pytest.mark.parametrize("name", PLANS)
def test_each_kind_of_length(name: str) -> None:
    """Seconds as they are; bars at the tempo that is wished for, else heard, else assumed."""
    wish, heard, (new_s, bars, assumed) = PLANS[name]
    plan = plan_length(6.0, wish, heard, 120)
    assert plan.new_s == pytest.approx(new_s, abs=1e-9)
    assert (plan.bars, plan.tempo_assumed, plan.prompt_s) == (bars, assumed, 6.0)
    tempo_bpm = wish.tempo_bpm or (heard.bpm if heard else None)
    assert (plan.tempo_bpm, plan.tempo_confidence > 0) == (tempo_bpm, tempo_bpm is not None)


@pytest.mark.parametrize("wish", [LengthWish(bars=64, tempo_bpm=100), LengthWish(seconds=120.1), LengthWish(bars=64)])
def test_more_than_may_be_made_is_refused(wish: LengthWish) -> None:
    """Bars are only known to be too long with their tempo."""
    with pytest.raises(TooLarge) as caught:
        plan_length(6.0, wish, None, 120)
    assert caught.value.code == "too_long"


@given(st.integers(1, 50 * 1800), st.floats(0, 0.99))
def test_whole_frames(frames: int, part: float) -> None:
    """A length of whole frames is itself; what is beyond them is cut off."""
    assert whole_frames_s(frames / 50) == frames / 50
    assert whole_frames_s((frames + part) / 50) == frames / 50
