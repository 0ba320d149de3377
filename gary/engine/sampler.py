"""From logits to tokens, for all rows at once though each has its own parameters and seed.

The law: a row's tokens depend on its own logits, parameters, seed and step, and on nothing else, bit for bit: not on
how many rows there are, their order or their slots. Therefore

- noise is a function of (seed, step, codebook), not a stream that rows share;
- whatever is summed over candidates is summed in integers. A sum of floats depends on its order, and on a GPU the order
  depends on the number of rows; softmax alone sums floats, and does so row by row on either device;
- shapes are those of the input and nothing waits for a value, so that a CUDA graph can hold all of it.

One number of noise is drawn per token and looked up in the cumulated weights. The other way, a Gumbel number per
candidate, needs `card` times the noise: 4.2 ms a step for 32 rows on one core, against 0.1 ms (4 codebooks of 2048).
Parameters mean what they mean to audiocraft (`LMModel._sample_next_token`, `utils.sample_top_k`, `utils.sample_top_p`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

from gary.engine.request import GenerationParams

# A probability in integers: exact for float32 from 2**-26 on, nothing below 2**-50. 2048 of them sum up to about 2**50,
# which float64 holds exactly and int64 with room to spare.
_ONE = 2**50
_TOP_P_OFF = 2.0  # a mass that is never reached

# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, figure 16), in int64, which wraps around.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST_FACTOR = 0xBF58476D1CE4E5B9 - 2**64
_SECOND_FACTOR = 0x94D049BB133111EB - 2**64


class Method(IntEnum):
    """How much of the work a batch needs; each does what those before it do, and gives their rows the same tokens."""

    GREEDY = 0
    TOP_K = 1  # and plain sampling, which is top-k with all candidates
    TOP_P = 2


def method_for(params: Sequence[GenerationParams]) -> Method:
    """The least that serves all of these."""
    return max((_method(one) for one in params), default=Method.GREEDY)


@dataclass(frozen=True, eq=False)
class RowParams:
    """The parameters of n rows as tensors `[n]`. What a row does not use stands at the value that changes nothing."""

    greedy: torch.Tensor  # bool
    temperature: torch.Tensor  # float32; 1 for 0, which is greedy
    top_k: torch.Tensor  # int64; card where off or overridden by top_p
    top_p: torch.Tensor  # float32; 2 where off
    cfg_coef: torch.Tensor  # float32
    seed: torch.Tensor  # int64

    @classmethod
    def of(
        cls, params: Sequence[GenerationParams], seeds: Sequence[int], card: int, device: torch.device | str = "cpu"
    ) -> RowParams:
        """Rows of requests that passed `check_request`, for codebooks of `card` tokens."""

        def column(values: list[int] | list[float] | list[bool], dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        assert len(seeds) == len(params), f"{len(seeds)} seeds for {len(params)} rows"
        return cls(
            greedy=column([_method(one) is Method.GREEDY for one in params], torch.bool),
            temperature=column([one.temperature or 1.0 for one in params], torch.float32),
            top_k=column([one.top_k if one.top_k and not one.top_p else card for one in params], torch.int64),
            top_p=column([one.top_p or _TOP_P_OFF for one in params], torch.float32),
            cfg_coef=column([one.cfg_coef for one in params], torch.float32),
            seed=column(list(seeds), torch.int64),
        )

    def at(self, index: torch.Tensor) -> RowParams:
        """The rows that an int64 index `[m]` names, in its order."""
        return RowParams(*(column.index_select(0, index) for column in self._columns()))

    def write(self, first: int, rows: RowParams) -> None:
        """Puts rows in place of those from `first` on; a captured CUDA graph sees them."""
        for ours, theirs in zip(self._columns(), rows._columns(), strict=True):
            ours[first : first + len(theirs)].copy_(theirs)

    def _columns(self) -> tuple[torch.Tensor, ...]:
        return (self.greedy, self.temperature, self.top_k, self.top_p, self.cfg_coef, self.seed)


def guide(cond: torch.Tensor, uncond: torch.Tensor, cfg_coef: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance, in audiocraft's order of operations, so equal to it bit for bit.

    Args:
        cond: logits `[n, K, card]`.
        uncond: logits `[n, K, card]`; a row that has none brings its conditional ones, which come out unchanged.
        cfg_coef: `[n]`.
    """
    return (cond - uncond).mul_(cfg_coef[:, None, None]).add_(uncond)


def uniforms(seeds: torch.Tensor, steps: torch.Tensor, codebooks: int) -> torch.Tensor:
    """The noise of rows at steps: float64 `[..., K]` in [0, 1), the same on every device.

    Each number is 52 bits of SplitMix64, whose state is the mixed seed and whose index is step * K + codebook. All the
    noise of a request can be made at once: seeds `[n, 1]` and steps `[S]` give `[n, S, K]`.

    Args:
        seeds: int64.
        steps: int64, of a shape that broadcasts with the seeds'. A request's steps differ from each other, through all
            of its windows.
        codebooks: K.
    """
    index = steps[..., None] * codebooks + torch.arange(1, codebooks + 1, device=steps.device)  # [..., K]
    bits = _mixed(_mixed(seeds)[..., None] + index * _GAMMA)
    return _shifted(bits, 12).to(torch.float64) * 2.0**-52


def sample(logits: torch.Tensor, rows: RowParams, noise: torch.Tensor, method: Method) -> torch.Tensor:
    """Draws one token for every row and codebook: int64 `[n, K]`, below card even where logits are no numbers.

    Args:
        logits: float32 `[n, K, card]`, guided already.
        rows: the parameters of the n rows.
        noise: `uniforms` `[n, K]` of the rows' seeds and steps.
        method: at least `method_for` the rows' parameters.
    """
    assert logits.dtype == torch.float32, f"{logits.dtype} logits"
    greedy = logits.argmax(-1)  # [n, K]
    if method is Method.GREEDY:
        return greedy
    probs = torch.softmax(logits / rows.temperature[:, None, None], dim=-1)  # [n, K, card]
    kept = _kept_top_p(probs, rows) if method is Method.TOP_P else _kept_top_k(probs, rows)
    cumulated = _weights(torch.where(kept, probs, 0.0)).cumsum(-1)  # [n, K, card] int64
    target = (noise[..., None] * cumulated[..., -1:]).to(torch.int64)  # [n, K, 1], below the total
    drawn = torch.searchsorted(cumulated, target, right=True)[..., 0]  # [n, K]
    # Logits that are no numbers have no total; their row still must not index out of range and fail the device for all.
    return torch.where(rows.greedy[:, None], greedy, drawn.clamp(max=logits.shape[-1] - 1))


def _kept_top_k(probs: torch.Tensor, rows: RowParams) -> torch.Tensor:
    """All that are at least the k-th largest, so more than k where there are ties: `[n, K, card]` bool."""
    ranked = _ranked(probs)
    place = (rows.top_k - 1)[:, None, None].expand(*probs.shape[:2], 1)
    return probs >= ranked.gather(-1, place)


def _kept_top_p(probs: torch.Tensor, rows: RowParams) -> torch.Tensor:
    """Largest first, all with at most p before them, of ties the first; top-k where p is off: `[n, K, card]` bool."""
    ranked = _ranked(probs)
    # The sums are exact, then rounded and subtracted in float32, as audiocraft does: the cut falls where its own does.
    before = _weights(ranked).cumsum(-1).to(torch.float32) / _ONE - ranked  # [n, K, card]
    reached = (before <= rows.top_p[:, None, None]).sum(-1, keepdim=True)  # [n, K, 1]
    count = torch.minimum(reached, rows.top_k[:, None, None]).clamp(min=1)  # NaN reaches none
    least = ranked.gather(-1, count - 1)  # [n, K, 1]
    above, tied = probs > least, probs == least
    room = count - above.sum(-1, keepdim=True)  # [n, K, 1]: how many of the ties are kept
    all_ties = (rows.top_p == _TOP_P_OFF)[:, None, None]
    return above | (tied & (all_ties | (tied.cumsum(-1) <= room)))


def _ranked(probs: torch.Tensor) -> torch.Tensor:
    """Values along the last axis, largest first."""
    if probs.device.type == "cpu":  # where torch takes 30 times as long as numpy to sort, 8 times for its topk
        ascending: torch.Tensor = torch.from_numpy(np.sort(probs.numpy(), axis=-1))
        return ascending.flip(-1)
    return probs.sort(dim=-1, descending=True).values


def _weights(probs: torch.Tensor) -> torch.Tensor:
    """Probabilities as integers."""
    return (probs * _ONE).to(torch.int64)


def _mixed(state: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser: int64, every bit of the result depends on every bit of the state."""
    state = (state ^ _shifted(state, 30)) * _FIRST_FACTOR
    state = (state ^ _shifted(state, 27)) * _SECOND_FACTOR
    return state ^ _shifted(state, 31)


def _shifted(state: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical shift to the right; torch's own shifts in copies of the sign bit."""
    return torch.bitwise_and(state >> bits, 2 ** (64 - bits) - 1)


def _method(params: GenerationParams) -> Method:
    if not params.use_sampling or params.temperature == 0:
        return Method.GREEDY
    return Method.TOP_P if params.top_p > 0 else Method.TOP_K
