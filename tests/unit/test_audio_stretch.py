"""What the next answer begins with: samples bit for bit, and codes on the same grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gary.audio.codes import Codes
from gary.audio.pcm import Pcm
from gary.audio.stretch import Stretch, cut
from gary.errors import InvalidInput

RATE_HZ, FRAME = 1000, 20
LENGTH = 1990  # half a frame short of 100 frames


def parent(start_sample: int = 0) -> tuple[Pcm, Codes]:
    """Samples that tell their place, and codes that tell their frame."""
    integers = np.stack([np.arange(LENGTH), -np.arange(LENGTH)], axis=1).astype(np.int16)
    frames = -(-(LENGTH - start_sample) // FRAME)
    codes = np.stack([np.arange(frames)] * 4).astype(np.int16)
    return Pcm(integers, RATE_HZ), Codes(codes, "a" * 64, FRAME, start_sample)


def check(stretch: Stretch, codes: Codes) -> None:
    """Samples and codes agree on where they lie in the parent."""
    start = int(stretch.pcm.integers[0, 0])
    end = start + stretch.pcm.length_samples
    assert np.array_equal(stretch.pcm.integers[:, 0], np.arange(start, end))
    if stretch.prompt is None or stretch.earlier is None:
        return
    frames = np.concatenate([stretch.earlier, stretch.prompt], axis=1)[0]
    assert np.array_equal(frames, np.arange(frames[0], frames[0] + len(frames)))
    assert start + stretch.codes_at_sample == codes.start_sample + frames[0] * FRAME
    assert end == codes.start_sample + (frames[-1] + 1) * FRAME + stretch.past_samples
    assert 0 <= stretch.past_samples < FRAME


@given(
    start_s=st.floats(0, 1.9),
    length_s=st.floats(0.05, 2),
    prompt_s=st.floats(0.001, 2),
    codes_from=st.integers(0, 1000),
)
def test_samples_and_codes_stay_on_one_grid(start_s: float, length_s: float, prompt_s: float, codes_from: int) -> None:
    """Any stretch of any answer, with codes from its beginning or from later on."""
    music, codes = parent(codes_from)
    stretch = cut(music, codes, start_s, start_s + length_s, prompt_s)
    check(stretch, codes)
    start, end = int(stretch.pcm.integers[0, 0]), min(LENGTH, round((start_s + length_s) * RATE_HZ))
    assert end == start + stretch.pcm.length_samples
    assert 0 <= round(start_s * RATE_HZ) - start < FRAME
    if stretch.prompt is not None:
        wanted = max(1, int(prompt_s * RATE_HZ / FRAME + 1e-6))
        assert stretch.prompt.shape[1] == min(wanted, (end - start) // FRAME)


def test_the_whole_of_an_answer() -> None:
    """The default: everything is kept, and the prompt is its last whole frames."""
    music, codes = parent()
    stretch = cut(music, codes, 0.0, None, 0.3)
    assert stretch.prompt is not None
    assert stretch.earlier is not None
    assert stretch.pcm.length_samples == LENGTH
    assert stretch.prompt[0].tolist() == list(range(84, 99))
    assert stretch.earlier[0].tolist() == list(range(84))
    assert (stretch.codes_at_sample, stretch.past_samples) == (0, 10)


@pytest.mark.parametrize(
    ("codes_from", "start_s", "end_s"),
    [(1000, 0.0, 0.9), (1000, 0.0, 1.1), (0, 0.0, 0.015)],
    ids=["no codes there", "codes of a part of the prompt", "less than a frame"],
)
def test_too_few_codes_are_none(codes_from: int, start_s: float, end_s: float) -> None:
    """A prompt that would be shorter than the audio allows is no prompt; the samples are there all the same."""
    music, codes = parent(codes_from)
    stretch = cut(music, codes, start_s, end_s, 0.3)
    assert stretch.prompt is None
    assert stretch.pcm.length_samples == round((end_s - start_s) * RATE_HZ)


def test_without_codes_nothing_moves() -> None:
    """The start is where it was asked for, to the sample."""
    stretch = cut(parent()[0], None, 0.013, 0.5, 0.3)
    assert stretch.pcm.integers[0, 0] == 13
    assert stretch.prompt is None


@pytest.mark.parametrize(("start_s", "end_s", "code"), [(1.99, None, "past_end"), (0.5, 0.5, "empty_range")])
def test_a_stretch_that_is_none_is_refused(start_s: float, end_s: float | None, code: str) -> None:
    """Each by its code."""
    with pytest.raises(InvalidInput) as caught:
        cut(*parent(), start_s, end_s, 0.3)
    assert caught.value.code == code
