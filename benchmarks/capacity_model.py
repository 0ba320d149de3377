"""The measured service as a network of pools, and how near its predictions come to what was measured.

Parameters are taken from one replica alone: what each stage of a lone task takes, and what each part takes of the
cores for a task under the heaviest load that the replica kept up with (beyond it a task costs less: batches are larger
and looks fewer). Predicted, and checked, is everything else: other loads, other numbers of replicas, the knees.
Arrivals are those that were offered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.pools import Job, Network, Pool, Visit
from benchmarks.scale_curve import FINISHED_MIN, Point, is_carried, knee_per_s, point
from benchmarks.scale_figures import Engine, Figures, Measured, Series
from benchmarks.scale_load import arrivals_s
from benchmarks.scale_parts import CLIENT

CROPPERS = 8  # calls that one replica takes at once
_ACCEPT, _OPEN, _STORE, _ENGINES = 0, 1, 2, 3  # pools; from _ENGINES on one for each replica
_PARTS = {"Ingress": "accept_s", "ProxyActor": "accept_s", CLIENT: "accept_s", "Cropper": "open_s"}


@dataclass(frozen=True)
class House:
    """What is known of a service: a task's stages when it is alone, and the cores that each of them takes.

    Attributes:
        stages_s: by stage; of generating, without what a step in company adds.
        cpu_s: seconds of one core, by stage.
        speed: of each of so many requests in one replica, a lone one's being 1.
        cores: of its machine.
    """

    stages_s: dict[str, float]
    cpu_s: dict[str, float]
    speed: Callable[[int], float]
    cores: float


def house(figures: Figures, engine: str) -> House:
    """Of a series, by its engine's name. Its first setting is one replica."""
    base = next(each for each in figures.series if each.engine == engine and each.replicas == 1)
    stages_s = {
        "accept_s": base.alone.accept_s,
        "open_s": base.alone.open_s,
        "generate_s": base.alone.generate_s,
        "store_s": base.alone.store_s,
    }
    speed = slowed(figures.engine) if base.step_s is None else (lambda jobs: 1.0)
    kept_up = [each for each in base.points if each.point.finished_per_s >= FINISHED_MIN * each.point.offered_per_s]
    return House(stages_s, _cpu_s(stages_s, kept_up[-1]), speed, float(figures.conditions["cores"]))


def slowed(times: list[Engine]) -> Callable[[int], float]:
    """The speed of each of so many requests in company, on straight lines between those that were measured."""
    slowness = {each.requests: each.wall_s / times[0].wall_s for each in times}

    def speed(requests: int) -> float:
        for (fewer, less), (more, most) in pairwise(sorted(slowness.items())):
            if fewer <= requests <= more:
                return 1.0 / (less + (most - less) * (requests - fewer) / (more - fewer))
        return 1.0 / slowness[max(slowness)]

    return speed


def predicted(known: House, series: Series, measured: Measured) -> Point:
    """What the network makes of the arrivals that a load had."""
    window_s = measured.point.window_s
    at_s = arrivals_s(measured.point.offered_per_s, window_s, measured.seed)
    left_cores = known.cores - measured.others_cores
    ends_s = Network(_pools(known, series), left_cores).run([Job(each, _visits(known, series)) for each in at_s])
    times_s = [end_s - arrival_s for end_s, arrival_s in zip(ends_s, at_s, strict=True)]
    return point(at_s, times_s, window_s, series.alone_s)


def _pools(known: House, series: Series) -> list[Pool]:
    def cores(stage: str, speed: Callable[[int], float]) -> Callable[[int], float]:
        """A job takes what it takes of the cores, spread over the time that it is there."""
        each = known.cpu_s[stage] / known.stages_s[stage]
        return lambda jobs: jobs * each * speed(jobs)

    def steady(jobs: int) -> float:
        return 1.0

    return [
        Pool(cores=cores("accept_s", steady)),
        Pool(CROPPERS, cores=cores("open_s", steady)),
        Pool(cores=cores("store_s", steady)),
        *[Pool(series.slots, known.speed, cores("generate_s", known.speed))] * series.replicas,
    ]


def _visits(known: House, series: Series) -> tuple[Visit, ...]:
    engines = tuple(range(_ENGINES, _ENGINES + series.replicas))
    return (
        Visit((_ACCEPT,), known.stages_s["accept_s"]),
        Visit((_OPEN,), known.stages_s["open_s"]),
        Visit(engines, known.stages_s["generate_s"]),
        Visit((_STORE,), known.stages_s["store_s"]),
    )


def _cpu_s(stages_s: dict[str, float], measured: Measured) -> dict[str, float]:
    """By stage: what is a stage's own; the rest (conductor, database, Ray), which is at all of them, by their time."""
    cpu_s, all_s = dict.fromkeys(stages_s, 0.0), sum(stages_s.values())
    for part, each_s in measured.cpu_s_per_task.items():
        if part.startswith("MusicGen"):
            cpu_s["generate_s"] += each_s
        elif part in _PARTS:
            cpu_s[_PARTS[part]] += each_s
        else:
            for stage, stage_s in stages_s.items():
                cpu_s[stage] += each_s * stage_s / all_s
    # A lone task is at one place at a time: what is more than a core of its stage is done beside it, and later.
    longest = max(stages_s, key=stages_s.__getitem__)
    for stage, stage_s in stages_s.items():
        beside_s = max(0.0, cpu_s[stage] - stage_s)
        cpu_s[stage] -= beside_s
        cpu_s[longest] += beside_s
    return cpu_s


@dataclass(frozen=True)
class Check:
    """A load as it was measured, and as it was predicted."""

    series: Series
    measured: Point
    predicted: Point

    @property
    def is_below_knee(self) -> bool:
        """Whether the load was carried, as it was measured."""
        return is_carried(self.measured, self.series.alone_s)

    @property
    def p50_error(self) -> float:
        """Of the measured."""
        return self.predicted.p50_s / self.measured.p50_s - 1

    @property
    def finished_error(self) -> float:
        return self.predicted.finished_per_s / self.measured.finished_per_s - 1


def checks(figures: Figures) -> list[Check]:
    """Every load that was measured."""
    houses = {engine: house(figures, engine) for engine in {series.engine for series in figures.series}}
    return [
        Check(series, measured.point, predicted(houses[series.engine], series, measured))
        for series in figures.series
        for measured in series.points
    ]


def knees(series: Series, checked: list[Check]) -> tuple[float | None, float | None]:
    """Of a series, as measured and as predicted, in tasks a second."""
    points = [each.predicted for each in checked if each.series is series]
    return series.knee_per_s, knee_per_s(points, series.alone_s)
