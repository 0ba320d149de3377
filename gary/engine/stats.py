"""What an engine has done and how full it is, for whoever watches over it. It knows no metric and no clock."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

STEP_BOUNDS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Occupancy:
    """Of a scheduler: what there is, and what is somebody's.

    Attributes:
        waiting: requests of the core, each one take, without a slot.
    """

    slots: int
    slots_in_use: int
    rows: int
    rows_in_use: int
    waiting: int


@dataclass(frozen=True)
class EngineStats:
    """Of an engine's whole life, but for its occupancy.

    Attributes:
        steps_by_time: steps that took up to each of STEP_BOUNDS_S and no less than the one before, then longer ones.
        step_s: spent in all steps.
        slot_steps: slots that drew, summed up over all steps.
        frames: made, over all takes; frames of prompts are not.
        frame_s: of music.
        row_bytes: of one row of the cache, all layers, keys and values.
    """

    steps_by_time: tuple[int, ...]
    step_s: float
    slot_steps: int
    frames: int
    frame_s: float
    occupancy: Occupancy
    row_bytes: int

    @property
    def steps(self) -> int:
        return sum(self.steps_by_time)


@runtime_checkable
class Counting(Protocol):
    """An engine that can say what it has done."""

    def stats(self) -> EngineStats:
        """From any thread; numbers of one moment, or of the step after it."""
        ...


@dataclass(eq=False)
class Tally:
    """Written by the decode thread alone, a few numbers a step."""

    steps_by_time: list[int] = field(default_factory=lambda: [0] * (len(STEP_BOUNDS_S) + 1))
    step_s: float = 0.0
    slot_steps: int = 0
    frames: int = 0

    def stepped(self, took_s: float, slots: int) -> None:
        """A step in which so many slots drew."""
        self.steps_by_time[bisect_left(STEP_BOUNDS_S, took_s)] += 1
        self.step_s += took_s
        self.slot_steps += slots
