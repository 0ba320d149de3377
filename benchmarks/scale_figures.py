"""What `scripts/bench scale` measured, as values and as the file that they are kept in."""

from __future__ import annotations

import hashlib
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from benchmarks.scale_curve import Point


@dataclass(frozen=True)
class Stages:
    """Where a task's time went, in seconds; they follow each other without a gap.

    Attributes:
        accept_s: from the scheduled arrival until a conductor has it: upload, queue, claim.
        open_s: decoding the source and taking the prompt.
        generate_s: MusicGen, waiting for a replica and for a slot included.
        store_s: from the last sample to completed.
    """

    accept_s: float
    open_s: float
    generate_s: float
    store_s: float

    @property
    def all_s(self) -> float:
        return self.accept_s + self.open_s + self.generate_s + self.store_s


@dataclass(frozen=True)
class Measured:
    """A load, and what it took.

    Attributes:
        seed: of its arrivals.
        wall_s: from its beginning until the last task was over.
        stages: medians.
        cores: taken by each part, on average over `wall_s`.
        others_cores: taken by whatever else the machine did.
        operations: of the database for each task, by kind; those that come by the clock are in them.
    """

    point: Point
    seed: int
    wall_s: float
    stages: Stages
    cores: dict[str, float]
    others_cores: float
    operations: dict[str, float]

    @property
    def cpu_s_per_task(self) -> dict[str, float]:
        """Seconds of one core, by part."""
        return {part: cores * self.wall_s / self.point.tasks for part, cores in self.cores.items()}


@dataclass(frozen=True)
class Series:
    """A setting under rising load.

    Attributes:
        engine: "tiny" or "paced".
        replicas: of MusicGen, `slots` each.
        step_s: of a paced engine.
        alone_s, alone: medians of tasks that had the house to themselves.
    """

    engine: str
    replicas: int
    slots: int
    step_s: float | None
    alone_s: float
    alone: Stages
    points: list[Measured]
    knee_per_s: float | None


@dataclass(frozen=True)
class Engine:
    """So many requests at once in an engine that has a process to itself: seconds until the last is done."""

    requests: int
    wall_s: float
    cores: float


@dataclass(frozen=True)
class Figures:
    """One run.

    Attributes:
        store: a `scale_limits.StoreLimits`.
        conductor: rates of a burst, in tasks a second, and what each part took for a task.
    """

    conditions: dict[str, Any] = field(default_factory=dict)
    series: list[Series] = field(default_factory=list)
    engine: list[Engine] = field(default_factory=list)
    store: dict[str, Any] = field(default_factory=dict)
    conductor: dict[str, Any] = field(default_factory=dict)


_FILE = TypeAdapter(Figures)


def write_figures(figures: Figures, path: Path) -> None:
    path.write_bytes(_FILE.dump_json(figures, indent=1) + b"\n")


def digest(figures: Figures) -> str:
    """Names these figures: a picture of them says which they are."""
    return hashlib.sha256(_FILE.dump_json(figures)).hexdigest()


def read_figures(path: Path) -> Figures:
    """Raises pydantic.ValidationError: it is no file of this version."""
    return _FILE.validate_json(path.read_bytes())
