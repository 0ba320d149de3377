"""Carries out the scheduler's plans: sequences of tokens in, the next position of each drawn and written back.

It knows slots, but no queue, no request and no audio. Prompts are fed by the decoder itself, whatever their length;
where the device has steps of fixed shape, those who decode are stepped by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from gary.engine.model import CrossCache, Decoder, Segment
from gary.engine.patterns import UNKNOWN
from gary.engine.request import GenerationParams
from gary.engine.sampler import RowParams, guide, method_for, sample, uniforms
from gary.engine.step import SlotWork, StepPlan


@dataclass(frozen=True)
class SlotState:
    """What a slot's request brings.

    Attributes:
        sequence: [K, S] int64: prompt and special tokens, UNKNOWN where something is to be drawn.
        cross: the description's keys and values; None for the null condition.
        counter: of the noise at position 0; windows of one request go on counting.
    """

    sequence: torch.Tensor
    cross: CrossCache | None
    params: GenerationParams
    seed: int
    counter: int


class Steps(Protocol):
    """Steps of fixed shape over the rows of a decoder, which share its cache and own the slots' sequences.

    Attributes:
        sequences: [slots or more, K, window] int64.
    """

    @property
    def sequences(self) -> torch.Tensor: ...

    def serves(self, cross: CrossCache | None) -> bool:
        """Whether requests with this description can be stepped so."""
        ...

    def seat(self, slot: int, state: SlotState) -> None:
        """Hears who has a slot now; its sequence is there already."""
        ...

    def run(self, works: Sequence[SlotWork]) -> None:
        """Feeds one position of each, draws and writes the next; may return before the device has done it."""
        ...


class Runner:
    """A decoder with `slots` sequences.

    Args:
        decoder: with the cache that `steps` shares.
        steps: who steps those who decode; the decoder itself where there is none.
    """

    def __init__(self, decoder: Decoder, slots: int, window: int, device: str, steps: Steps | None = None) -> None:
        size = (slots, decoder.weights.shape.codebooks, window)  # [slots, K, S]
        self._decoder = decoder
        self._device = device
        self._steps = steps
        if steps is not None:
            self._sequences = steps.sequences
        else:
            self._sequences = torch.full(size, UNKNOWN, dtype=torch.int64, device=device)
        self._states: list[SlotState | None] = [None] * slots

    def seat(self, slot: int, state: SlotState) -> None:
        """Gives a slot to a request."""
        self._states[slot] = state
        self._sequences[slot, :, : state.sequence.shape[1]] = state.sequence.to(self._device)
        if self._steps is not None:
            self._steps.seat(slot, state)

    def sequence(self, slot: int, end: int) -> torch.Tensor:
        """[K, end] of a slot, on the CPU."""
        return self._sequences[slot, :, :end].cpu()

    @torch.no_grad()
    def run(self, plan: StepPlan) -> None:
        """Feeds the plan's positions and writes what is drawn."""
        if plan.copy is not None:
            self._decoder.copy_rows(plan.copy.sources, plan.copy.targets, plan.copy.length)
        fed = list(plan.decode)
        if self._steps is not None:
            stepped, fed = self._parted(self._steps, fed)
            if stepped:
                self._steps.run(stepped)
        if plan.prefill is not None:
            fed.append(plan.prefill)
        if fed:
            self._feed(fed)

    def _parted(self, steps: Steps, works: Sequence[SlotWork]) -> tuple[list[SlotWork], list[SlotWork]]:
        """Those that `steps` serves, and the others."""
        parted: tuple[list[SlotWork], list[SlotWork]] = ([], [])
        for work in works:
            parted[not steps.serves(self._state(work.slot).cross)].append(work)
        return parted

    def _feed(self, works: Sequence[SlotWork]) -> None:
        """All positions in one pass of the decoder."""
        segments, tokens = self._lay_out(works)
        sampled = [work for work in works if work.samples]
        if not sampled:
            self._decoder.forward(tokens, segments, torch.empty(0, dtype=torch.int64, device=self._device))
            return
        last = {segment.row: segment.at + segment.length - 1 for segment in segments}
        wanted = torch.tensor([last[row] for work in sampled for row in work.rows], device=self._device)
        logits = self._decoder.forward(tokens, segments, wanted)  # [W, K, card]
        self._write(sampled, self._draw(sampled, self._guided(sampled, logits)))

    def _lay_out(self, works: Sequence[SlotWork]) -> tuple[list[Segment], torch.Tensor]:
        """The segments of a pass and their tokens [N, K]; a request's rows are fed the same."""
        segments, tokens, at = [], [], 0
        for work in works:
            state = self._state(work.slot)
            fed = self._sequences[work.slot, :, work.start : work.start + work.length].T  # [length, K]
            for index, row in enumerate(work.rows):
                cross = state.cross if index == 0 else None
                segments.append(Segment(at, row, work.start, work.length, cross))
                tokens.append(fed)
                at += work.length
        return segments, torch.cat(tokens)

    def _guided(self, sampled: Sequence[SlotWork], logits: torch.Tensor) -> torch.Tensor:
        """[W, K, card] by rows -> [n, K, card] by requests."""
        firsts, at = [], 0
        for work in sampled:
            firsts.append(at)
            at += len(work.rows)
        cond = logits[firsts]
        guided = [index for index, work in enumerate(sampled) if len(work.rows) == 2]
        if guided:
            coefs = [self._state(sampled[index].slot).params.cfg_coef for index in guided]
            uncond = logits[[firsts[index] + 1 for index in guided]]
            cond[guided] = guide(cond[guided], uncond, torch.tensor(coefs, device=self._device))
        return cond

    def _draw(self, sampled: Sequence[SlotWork], logits: torch.Tensor) -> torch.Tensor:
        """[n, K, card] -> [n, K]"""
        states = [self._state(work.slot) for work in sampled]
        params = [state.params for state in states]
        shape = self._decoder.weights.shape
        rows = RowParams.of(params, [state.seed for state in states], shape.card, self._device)
        counters = [state.counter + work.start + work.length for state, work in zip(states, sampled, strict=True)]
        steps = torch.tensor(counters, dtype=torch.int64, device=self._device)
        return sample(logits, rows, uniforms(rows.seed, steps, shape.codebooks), method_for(params))

    def _write(self, sampled: Sequence[SlotWork], tokens: torch.Tensor) -> None:
        """What was drawn takes the place of UNKNOWN alone: prompt and special tokens stay."""
        slots = torch.tensor([work.slot for work in sampled], device=self._device)
        positions = torch.tensor([work.start + work.length for work in sampled], device=self._device)
        before = self._sequences[slots, :, positions]  # [n, K]
        self._sequences[slots, :, positions] = torch.where(before == UNKNOWN, tokens, before)

    def _state(self, slot: int) -> SlotState:
        state = self._states[slot]
        assert state is not None, f"slot {slot} is planned and nobody sits there"
        return state
