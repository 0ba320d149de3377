"""What one step of the engine is: values only, made by the scheduler, carried out by the runner.

A request occupies a slot, and with it one or two rows of the key-value cache: the conditional row and, where guidance
is at work, the unconditional one. Positions are those of the codebooks' pattern (S of `[B, K, S]`): a request of T
frames has T + 4 of them with MusicGen's delays; feeding position s gives the logits of position s + 1.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SlotWork:
    """What a step does for one request.

    Attributes:
        slot: index of the request's state: its sequence, parameters and seed.
        rows: of the cache: (conditional,) or (conditional, unconditional); a request without description has one,
            on which nothing is conditioned.
        start: first position to be fed; the cache already holds all before it.
        length: positions to be fed, one while decoding.
        samples: whether position start + length is drawn from the logits; of a prefill's chunks, only the last's.
    """

    slot: int
    rows: tuple[int, ...]
    start: int
    length: int
    samples: bool


@dataclass(frozen=True)
class RowCopy:
    """Keys and values that are in the cache already and are wanted in other rows too.

    Attributes:
        sources, targets: rows, pair by pair; in each the conditional one first.
        length: positions, from the first on.
    """

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    length: int


@dataclass(frozen=True)
class StepPlan:
    """One step: a position each for those that decode, and at most one chunk of one newcomer's prompt.

    Attributes:
        copy: what the newcomer is given before its first chunk is fed, which then begins where the copy ends.
    """

    decode: tuple[SlotWork, ...]
    prefill: SlotWork | None
    copy: RowCopy | None = None

    @property
    def newcomer(self) -> SlotWork | None:
        """The first work of the request that joins in this step."""
        joins = self.prefill is not None and (self.prefill.start == 0 or self.copy is not None)
        return self.prefill if joins else None

    @property
    def sampled(self) -> tuple[SlotWork, ...]:
        """The work after which a position is drawn, decoding first: the order of the runner's logits."""
        newcomer = (self.prefill,) if self.prefill is not None and self.prefill.samples else ()
        return self.decode + newcomer
