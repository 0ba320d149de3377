"""New music meets samples that are kept: those stay as they are, no click between, and no trace after 10 ms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gary.audio.answer import Answer, Shape
from gary.audio.clip import Samples
from gary.audio.limiter import limit
from gary.audio.pcm import Int16, read_wav, to_int16
from gary.audio.seam import DECLICK_S, declick

RATE_HZ = 32_000
FADE_SAMPLES = round(DECLICK_S * RATE_HZ)


def tone(length_samples: int, level: float = 0.3, channels: int = 2) -> Samples:
    time_s = np.arange(length_samples) / RATE_HZ
    return np.stack([level * np.sin(2 * np.pi * 110 * (i + 1) * time_s) for i in range(channels)]).astype(np.float32)


def answered(rendering: Samples, kept: Int16 | None, skip: int, cuts: list[int]) -> tuple[Answer, bytes]:
    """The answer, and what its pushes said, put together at the places that they named."""
    length = rendering.shape[1] - skip + (0 if kept is None else len(kept))
    answer = Answer(Shape(RATE_HZ, rendering.shape[0], length, skip), kept)
    frame_bytes = 2 * rendering.shape[0]
    heard = bytearray(b"" if kept is None else kept.tobytes())
    for part in np.split(rendering, sorted(cuts), axis=1):
        start_sample, pcm = answer.push(part)
        assert start_sample * frame_bytes == len(heard)
        heard += pcm
    return answer, bytes(heard)


@given(cuts=st.lists(st.integers(0, 4000), max_size=6), skip=st.integers(1, 3000))
def test_however_it_is_cut_up_the_answer_is_the_same(cuts: list[int], skip: int) -> None:
    """The kept samples bit for bit, then the rendering after what is skipped; what was told is what is in the file."""
    rendering, kept = tone(4000, level=1.1), to_int16(tone(1000) + np.float32(0.1))
    whole, _ = answered(rendering, kept, skip, [])
    answer, heard = answered(rendering, kept, skip, cuts)
    assert answer.wav() == whole.wav()
    assert answer.wav()[44:] == heard
    music = read_wav(answer.wav()).integers
    assert np.array_equal(music[:1000], kept)
    after = to_int16(limit(rendering[:, skip + FADE_SAMPLES :]))
    assert np.array_equal(music[1000 + FADE_SAMPLES :], after)


def test_there_is_no_step_where_they_meet() -> None:
    """The rendering lies 0.4 beside what is kept; in the answer neighbours are never further apart than in a tone."""
    original = tone(3000)
    answer, _ = answered(original - np.float32(0.4), to_int16(original[:, :1000]), 1000, [700, 1100])
    music = read_wav(answer.wav()).integers.astype(np.float64) / 32768
    assert np.abs(np.diff(music, axis=0)).max() < np.abs(np.diff(original)).max() + 0.4 * np.pi / FADE_SAMPLES
    assert np.abs(music[1000 + FADE_SAMPLES :] - (original.T[1000 + FADE_SAMPLES :] - 0.4)).max() < 2**-15


def test_a_rendering_that_is_right_is_not_touched() -> None:
    """Where there is no step, nothing is added."""
    samples = tone(500)
    assert declick(samples, np.zeros(2, np.float32), 0, RATE_HZ) is samples


@given(cuts=st.lists(st.integers(0, 4000), max_size=6))
def test_without_anything_kept_the_rendering_is_the_answer(cuts: list[int]) -> None:
    """From its first sample on, limited and otherwise as it is."""
    rendering = tone(4000, level=1.2, channels=1)
    answer, _ = answered(rendering, None, 0, cuts)
    assert np.array_equal(read_wav(answer.wav()).integers, to_int16(limit(rendering)))


def test_an_answer_that_lacks_samples_is_our_bug() -> None:
    """A file is never shorter than its header said when it was sent."""
    answer = Answer(Shape(RATE_HZ, 1, 100, 0))
    answer.push(np.zeros((1, 99), np.float32))
    with pytest.raises(AssertionError):
        answer.wav()
