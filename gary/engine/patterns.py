"""The delay pattern: codes `[K, T]` laid out as the sequence `[K, S]` that the decoder sees. It knows no model.

Codebook q at position s holds frame s - 1 - delays[q]; where that is no frame stands the special token, at position 0
therefore in every codebook. A frame is whole once its most delayed codebook is drawn. MusicGen has the delays
(0, 1, 2, 3), and (0, 0, 1, 1, 2, 2, 3, 3) for stereo (arXiv 2306.05284, section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gary.engine.imports import audiocraft_imports
from gary.errors import CheckpointError

if TYPE_CHECKING:
    from audiocraft.modules.codebooks_patterns import CodebooksPatternProvider

UNKNOWN = -1  # stands in a sequence where a token is still to be drawn


@dataclass(frozen=True)
class DelayPattern:
    """Delays in positions, one per codebook, ascending."""

    delays: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.delays, "a pattern has codebooks"
        assert self.delays[0] >= 0, f"{self.delays} reach back in time"
        assert list(self.delays) == sorted(self.delays), f"{self.delays} do not ascend"

    @property
    def codebooks(self) -> int:
        return len(self.delays)

    def positions(self, frames: int) -> int:
        """S of a sequence of T frames."""
        return frames + self.delays[-1] + 1

    def prefill_positions(self, prompt_frames: int) -> int:
        """How many positions hold nothing to be drawn; they are fed at once, and the next one is the first drawn."""
        return prompt_frames + self.delays[0] + 1

    def complete_frames_at(self, position: int) -> int:
        """How many frames, from the first on, are whole once this position has been drawn."""
        return max(0, position - self.delays[-1])

    def to_sequence(self, codes: torch.Tensor, special: int) -> torch.Tensor:
        """Lays codes `[..., K, T]` out as a sequence `[..., K, S]`, the special token where there is no frame."""
        frames = codes.shape[-1]
        sequence = codes.new_full((*codes.shape[:-1], self.positions(frames)), special)  # [..., K, S]
        for codebook, first in enumerate(self._first_positions(codes)):
            sequence[..., codebook, first : first + frames] = codes[..., codebook, :]
        return sequence

    def to_codes(self, sequence: torch.Tensor) -> torch.Tensor:
        """Takes codes `[..., K, T]` back out of a sequence `[..., K, S]`, or out of its beginning.

        Of a beginning, T counts the frames that are whole in it.
        """
        frames = max(0, sequence.shape[-1] - self.positions(0))
        firsts = enumerate(self._first_positions(sequence))
        return torch.stack([sequence[..., q, first : first + frames] for q, first in firsts], dim=-2)

    def _first_positions(self, tokens: torch.Tensor) -> list[int]:
        assert tokens.shape[-2] == self.codebooks, f"{tuple(tokens.shape)} is not [..., {self.codebooks}, positions]"
        return [1 + delay for delay in self.delays]


def delays_of(provider: CodebooksPatternProvider) -> tuple[int, ...]:
    """The delays of a checkpoint's own pattern, to make a `DelayPattern` of.

    Raises:
        CheckpointError: the checkpoint was trained on a pattern that is no plain delay.
    """
    with audiocraft_imports():
        from audiocraft.modules.codebooks_patterns import DelayedPatternProvider

    if not isinstance(provider, DelayedPatternProvider):
        raise CheckpointError(f"codebooks are laid out by {type(provider).__name__}; only the delay pattern is served")
    if provider.flatten_first or provider.empty_initial:
        raise CheckpointError(
            f"the delay pattern has flatten_first {provider.flatten_first} and empty_initial {provider.empty_initial}; "
            "only 0 and 0 is served"
        )
    return tuple(int(delay) for delay in provider.delays)
