"""The delay pattern against audiocraft's own provider, and the bookkeeping that follows from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gary.engine.imports import audiocraft_imports
from gary.engine.patterns import UNKNOWN, DelayPattern, delays_of
from gary.errors import CheckpointError

with audiocraft_imports():
    from audiocraft.modules.codebooks_patterns import (
        CoarseFirstPattern,
        CodebooksPatternProvider,
        DelayedPatternProvider,
        ParallelPatternProvider,
        UnrolledPatternProvider,
    )

MONO, STEREO = (0, 1, 2, 3), (0, 0, 1, 1, 2, 2, 3, 3)
SPECIAL = 2048

delay_tuples = st.one_of(
    st.sampled_from([MONO, STEREO]),
    st.lists(st.integers(0, 5), min_size=1, max_size=8).map(lambda delays: tuple(sorted(delays))),
)
frame_counts = st.integers(1, 40)


def codes_of(delays: tuple[int, ...], frames: int) -> torch.Tensor:
    """Codes [2, K, T], no two alike."""
    return torch.arange(2 * len(delays) * frames).reshape(2, len(delays), frames)


def theirs(delays: tuple[int, ...], frames: int) -> Any:
    return DelayedPatternProvider(len(delays), list(delays)).get_pattern(frames)


@given(delay_tuples, frame_counts)
def test_sequence_and_codes_equal_audiocrafts(delays: tuple[int, ...], frames: int) -> None:
    """Laid out and taken back, codes are what audiocraft makes of them, in a batch and alone."""
    pattern, codes = DelayPattern(delays), codes_of(delays, frames)
    expected, _, _ = theirs(delays, frames).build_pattern_sequence(codes, SPECIAL)
    sequence = pattern.to_sequence(codes, SPECIAL)
    assert torch.equal(sequence, expected)
    assert torch.equal(pattern.to_sequence(codes[1], SPECIAL), expected[1])
    assert pattern.positions(frames) == expected.shape[-1]
    reverted, _, _ = theirs(delays, frames).revert_pattern_sequence(sequence, SPECIAL)
    assert torch.equal(pattern.to_codes(sequence), reverted)
    assert torch.equal(pattern.to_codes(sequence[0]), codes[0])


@given(delay_tuples, frame_counts, st.data())
def test_beginning_of_a_continuation_equals_audiocrafts(
    delays: tuple[int, ...], frames: int, data: st.DataObject
) -> None:
    """The prompt, the special tokens, what is unknown and the first position to be drawn are audiocraft's."""
    prompt_frames = data.draw(st.integers(0, frames - 1))
    pattern, prompt = DelayPattern(delays), codes_of(delays, frames)[..., :prompt_frames]
    unknown = torch.full((2, len(delays), frames - prompt_frames), UNKNOWN)
    codes = torch.cat([prompt, unknown], -1)  # [2, K, T]
    expected, _, _ = theirs(delays, frames).build_pattern_sequence(codes, SPECIAL)
    begun = pattern.to_sequence(codes, SPECIAL)
    assert torch.equal(begun, expected)
    first = pattern.prefill_positions(prompt_frames)
    assert first == theirs(delays, frames).get_first_step_with_timesteps(prompt_frames)
    assert not (begun[..., :first] == UNKNOWN).any()
    assert (begun[..., first] == UNKNOWN).any()


@given(delay_tuples, frame_counts)
def test_frames_complete_as_positions_are_drawn(delays: tuple[int, ...], frames: int) -> None:
    """After each position those frames are whole that have all tokens, and the sequence's beginning yields them."""
    pattern, codes = DelayPattern(delays), codes_of(delays, frames)
    sequence = pattern.to_sequence(codes, SPECIAL)
    for position in range(pattern.positions(frames)):
        known = torch.where(torch.arange(sequence.shape[-1]) <= position, sequence[0], UNKNOWN)
        whole = int((pattern.to_codes(known) != UNKNOWN).all(0).sum())
        assert pattern.complete_frames_at(position) == whole
        assert torch.equal(pattern.to_codes(sequence[..., : position + 1]), codes[..., :whole])
    assert pattern.complete_frames_at(pattern.positions(frames) - 1) == frames


@pytest.mark.parametrize(("delays", "positions", "prefill"), [(MONO, 1504, 301), (STEREO, 1504, 301)])
def test_sizes_of_musicgen(delays: tuple[int, ...], positions: int, prefill: int) -> None:
    """30 s take 1504 positions, and a prompt of 6 s fills 301 of them, be it mono or stereo."""
    pattern = DelayPattern(delays)
    assert (pattern.positions(1500), pattern.prefill_positions(300)) == (positions, prefill)


@pytest.mark.parametrize(
    ("provider", "delays"),
    [
        (DelayedPatternProvider(4), MONO),
        (DelayedPatternProvider(8, list(STEREO)), STEREO),
        (ParallelPatternProvider(2), (0, 0)),
    ],
)
def test_delays_are_read_off_the_provider(provider: CodebooksPatternProvider, delays: tuple[int, ...]) -> None:
    """A checkpoint's own pattern gives the delays."""
    assert delays_of(provider) == delays


@pytest.mark.parametrize(
    ("provider", "named"),
    [
        (UnrolledPatternProvider(4), "UnrolledPatternProvider"),
        (CoarseFirstPattern(4), "CoarseFirstPattern"),
        (DelayedPatternProvider(4, flatten_first=2), "flatten_first 2"),
        (DelayedPatternProvider(4, empty_initial=-1), "empty_initial -1"),
    ],
)
def test_other_patterns_are_refused(provider: CodebooksPatternProvider, named: str) -> None:
    """A checkpoint of another pattern is refused by name, not decoded wrongly."""
    with pytest.raises(CheckpointError, match=named):
        delays_of(provider)
