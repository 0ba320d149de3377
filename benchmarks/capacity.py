"""What so many listeners need, and which part gives way first: `scripts/bench capacity`.

Reads the figures of a run of `scripts/bench scale`, shows how near the model of `capacity_model.py` comes to them, and
then asks that model for other numbers of listeners. Nothing of a GPU is measured here: its steps are inputs, named
`Device`, and stand in the tables as assumptions. One JSON line last.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil
from pathlib import Path
from statistics import median

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.capacity_model import checks, house, knees
from benchmarks.pools import Job, Network, Pool, Visit
from benchmarks.scale_curve import SLOWER_MAX, percentile
from benchmarks.scale_figures import Figures, read_figures
from gary.config import Limits, TasksConfig

FIGURES = Path(__file__).with_name("scale.json")
LISTENERS = (10, 1_000, 100_000)
CELL_LISTENERS = 10_000  # more are so many services of this size, beside each other
_TASKS = 3_000  # simulated, for each number of GPUs that is tried
_FRAMES_PER_S, _RATE_HZ, _SAMPLE_BYTES = 50, 32_000, 2
_PREFILL_STEPS = 8  # what feeding a prompt costs, in steps
_LIVE_LOOKS_PER_S = 10  # of a live listener, at the database; gary/api/v1/live.py


@dataclass(frozen=True)
class Device:
    """A GPU under one size of MusicGen. All of it is assumed.

    Attributes:
        step_s: of one request.
        request_s: that each further one adds.
        requests: at once, by its memory.
    """

    size: str
    step_s: float
    request_s: float
    requests: int


# Memory at 3.35 TB/s (H100) reads the weights (0.9, 3.0 and 6.6 GB in fp16) in 0.3, 0.9 and 2.0 ms; the kernels of a
# CUDA graph, 300 to 465 of small and twice as many of the others, come on top. A request of 30 s has 296, 887 and
# 1,182 MB of keys and values, half of that on average; serve_config.yaml gives them 4 GiB.
DEVICES = (
    Device("small", 0.0013, 0.00005, 14),
    Device("medium", 0.0030, 0.00015, 4),
    Device("large", 0.0045, 0.0002, 3),
)


@dataclass(frozen=True)
class Habit:
    """What a listener does. All of it is assumed.

    Attributes:
        period_s: between two of its continuations.
        link_share: of tasks that begin from a link; the others go on from an earlier task.
        link_bytes: fetched for one of them.
        link_cpu_s: of fetching it.
    """

    period_s: float = 120.0
    prompt_s: float = 6.0
    new_s: float = 20.0
    link_share: float = 0.2
    link_bytes: float = 4e6
    link_cpu_s: float = 0.5

    @property
    def wav_bytes(self) -> float:
        return (self.prompt_s + self.new_s) * _RATE_HZ * _SAMPLE_BYTES


@dataclass(frozen=True)
class Cost:
    """What one task takes, measured but for `Habit`'s share of links: seconds of one core by part, and the database's.

    Attributes:
        operations: of the database.
        written_bytes: to the database: the audio live and again as files; `kept_bytes` of them stay.
    """

    cores_s: dict[str, float]
    operations: float
    written_bytes: float
    kept_bytes: float


def cost(figures: Figures, habit: Habit) -> Cost:
    """Of the conductor's burst, whose tasks are as long as `habit`'s."""
    cpu_s: dict[str, float] = figures.conductor["cpu_s_per_task"]
    opened = next(each for each in figures.series if each.engine == "tiny").points[-1].cpu_s_per_task["Cropper"]
    rest = {"MusicGen-bench", "the benchmark itself", "Conductor", "Ingress", "the database's server"}
    kept_bytes = figures.store["kept_bytes"]
    return Cost(
        cores_s={
            "conductor": cpu_s["Conductor"],
            "ingress": cpu_s["Ingress"] + cpu_s["ProxyActor"],
            "database": cpu_s["the database's server"],
            "fetcher, cropper": habit.link_share * (opened + habit.link_cpu_s),
            "Ray": sum(each for part, each in cpu_s.items() if part not in rest | {"ProxyActor"}),
        },
        operations=sum(figures.conductor["operations_per_task"].values()),
        written_bytes=kept_bytes + habit.wav_bytes,
        kept_bytes=kept_bytes,
    )


@dataclass(frozen=True)
class Need:
    """What a number of listeners needs.

    Attributes:
        gpus: by size of the model, were all of its tasks.
        task_s: median, of small.
        unfinished: tasks in the house, of small.
        operations_per_s: of the database, live listeners' looks among them.
        database_in_bytes_per_s: written to it.
        kept_bytes: in it, for as long as a task is kept.
        out_bytes_per_s: to listeners, each answer once as WAV.
        in_bytes_per_s: fetched.
    """

    listeners: int
    tasks_per_s: float
    gpus: dict[str, int]
    task_s: float
    unfinished: float
    cores: dict[str, float]
    operations_per_s: float
    database_in_bytes_per_s: float
    kept_bytes: float
    out_bytes_per_s: float
    in_bytes_per_s: float


def need(figures: Figures, habit: Habit, listeners: int) -> Need:
    """By simulation the GPUs, by arithmetic the rest."""
    rate_per_s, costs = listeners / habit.period_s, cost(figures, habit)
    cells = max(1, ceil(listeners / CELL_LISTENERS))
    fleets = {device.size: _fleet(figures, habit, device, rate_per_s / cells) for device in DEVICES}
    _, task_s = fleets["small"]
    looks_per_s = rate_per_s * _generate_s(habit, DEVICES[0], 1) * _LIVE_LOOKS_PER_S
    return Need(
        listeners=listeners,
        tasks_per_s=rate_per_s,
        gpus={size: cells * gpus for size, (gpus, _) in fleets.items()},
        task_s=task_s,
        unfinished=rate_per_s * task_s,
        cores={part: each_s * rate_per_s for part, each_s in costs.cores_s.items()},
        operations_per_s=costs.operations * rate_per_s + looks_per_s,
        database_in_bytes_per_s=costs.written_bytes * rate_per_s,
        kept_bytes=costs.kept_bytes * rate_per_s * TasksConfig().ttl_s,
        out_bytes_per_s=habit.wav_bytes * rate_per_s,
        in_bytes_per_s=habit.link_share * habit.link_bytes * rate_per_s,
    )


def _generate_s(habit: Habit, device: Device, requests: int) -> float:
    steps = habit.new_s * _FRAMES_PER_S + _PREFILL_STEPS
    return steps * (device.step_s + (requests - 1) * device.request_s)


def _fleet(figures: Figures, habit: Habit, device: Device, rate_per_s: float) -> tuple[int, float]:
    """The fewest GPUs under which 95 % of the tasks take less than twice a lone one's time; and the median time."""
    full = device.requests / _generate_s(habit, device, device.requests)  # tasks a second of one GPU
    gpus = max(1, ceil(rate_per_s / full))
    while True:
        alone_s, times_s = _task_times_s(figures, habit, device, rate_per_s, gpus)
        if percentile(times_s, 0.95) < SLOWER_MAX * alone_s:
            return gpus, median(times_s)
        gpus = ceil(1.05 * gpus) if gpus >= 20 else gpus + 1


def _task_times_s(
    figures: Figures, habit: Habit, device: Device, rate_per_s: float, gpus: int
) -> tuple[float, list[float]]:
    """A lone task's time, and those of Poisson arrivals; all but the GPUs has room enough."""
    alone_s = _generate_s(habit, device, 1)
    around = house(figures, "paced").stages_s
    pools = [Pool(), *[Pool(device.requests, lambda jobs: alone_s / _generate_s(habit, device, jobs))] * gpus]
    visits = (
        Visit((0,), around["accept_s"] + around["open_s"]),
        Visit(tuple(range(1, gpus + 1)), alone_s),
        Visit((0,), around["store_s"]),
    )
    at_s = np.cumsum(np.random.default_rng(1).exponential(1 / rate_per_s, _TASKS)).tolist()
    ends_s = Network(pools).run([Job(each, visits) for each in at_s])
    return sum(visit.work for visit in visits), [end - begin for end, begin in zip(ends_s, at_s, strict=True)]


@dataclass(frozen=True)
class Ceiling:
    """A part as production's file has it, and the load that fills it."""

    part: str
    tasks_per_s: float
    why: str


def ceilings(figures: Figures, habit: Habit) -> list[Ceiling]:
    """The parts that give way, the first to do so first."""
    costs, small = cost(figures, habit), DEVICES[0]
    one = need(figures, habit, 1_000)
    kept_days = TasksConfig().ttl_s / 86_400
    found = [
        Ceiling("a disk of 1 TB", 1e12 / (costs.kept_bytes * TasksConfig().ttl_s), f"music of {kept_days:g} days"),
        Ceiling("a GPU, small", small.requests / _generate_s(habit, small, small.requests), "assumed"),
        Ceiling("4 GPUs, small", 4 * small.requests / _generate_s(habit, small, small.requests), "max_replicas"),
        Ceiling("2 conductors", 2 / costs.cores_s["conductor"], "one core each"),
        Ceiling("2 ingresses and proxies", 2 / costs.cores_s["ingress"], "one core each"),
        Ceiling("limits.unfinished_tasks", Limits().unfinished_tasks / one.task_s, "more are answered 429"),
        Ceiling("the embedded database", float(figures.store["finished"]["per_s"]), "finishing, on 2 cores"),
    ]
    return sorted(found, key=lambda each: each.tasks_per_s)


def main() -> None:
    """Prints the checks, the needs and the ceilings, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("figures", nargs="?", type=Path, default=FIGURES, help="of a run of scripts/bench scale")
    options = parser.parse_args()
    figures, habit, console = read_figures(options.figures), Habit(), Console(width=140)
    for table in (_checked(figures), _knees(figures), _needs(figures, habit), _ceilings(figures, habit)):
        console.print(table)
    needs = [need(figures, habit, listeners) for listeners in LISTENERS]
    print(json.dumps({"needs": [asdict(each) for each in needs], "devices": [asdict(each) for each in DEVICES]}))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.MARKDOWN, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _checked(figures: Figures) -> Table:
    table = _table(
        "loads", "engine, replicas", "offered /s", "p50 s", "predicted", "off", "finished /s", "predicted", "off", ""
    )
    for each in checks(figures):
        table.add_row(
            f"{each.series.engine}, {each.series.replicas}",
            f"{each.measured.offered_per_s:.2f}",
            f"{each.measured.p50_s:.2f}",
            f"{each.predicted.p50_s:.2f}",
            f"{each.p50_error:+.0%}",
            f"{each.measured.finished_per_s:.2f}",
            f"{each.predicted.finished_per_s:.2f}",
            f"{each.finished_error:+.0%}",
            "" if each.is_below_knee else "beyond the knee",
        )
    return table


def _knees(figures: Figures) -> Table:
    table, checked = _table("knees", "engine, replicas", "measured /s", "predicted", "off"), checks(figures)
    for series in figures.series:
        measured, foreseen = knees(series, checked)
        off = f"{foreseen / measured - 1:+.0%}" if measured and foreseen else ""
        shown = [f"{each:.2f}" if each is not None else "not within these loads" for each in (measured, foreseen)]
        table.add_row(f"{series.engine}, {series.replicas}", *shown, off)
    return table


def _needs(figures: Figures, habit: Habit) -> Table:
    needs = [need(figures, habit, listeners) for listeners in LISTENERS]
    table = _table("needs", "listeners", *(f"{each.listeners:,}" for each in needs))
    rows: dict[str, Callable[[Need], str]] = {
        "tasks/s": lambda each: f"{each.tasks_per_s:.3g}",
        **{f"GPUs, all {device.size}": partial(_gpus, size=device.size) for device in DEVICES},
        "median task, small, s": lambda each: f"{each.task_s:.1f}",
        "tasks in the house": lambda each: f"{each.unfinished:,.1f}",
        **{f"cores: {part}": partial(_cores, part=part) for part in needs[0].cores},
        "database operations/s": lambda each: f"{each.operations_per_s:,.0f}",
        "into the database, MB/s": lambda each: f"{each.database_in_bytes_per_s / 1e6:,.1f}",
        "kept for a week, TB": lambda each: f"{each.kept_bytes / 1e12:,.2f}",
        "out to listeners, Mbit/s": lambda each: f"{8 * each.out_bytes_per_s / 1e6:,.1f}",
        "in from sources, Mbit/s": lambda each: f"{8 * each.in_bytes_per_s / 1e6:,.1f}",
    }
    for name, told in rows.items():
        table.add_row(name, *map(told, needs))
    return table


def _gpus(each: Need, size: str) -> str:
    return f"{each.gpus[size]:,}"


def _cores(each: Need, part: str) -> str:
    return f"{each.cores[part]:,.2f}"


def _ceilings(figures: Figures, habit: Habit) -> Table:
    table = _table("what gives way, first to last", "part", "full at tasks/s", "listeners", "why")
    for each in ceilings(figures, habit):
        listeners = each.tasks_per_s * habit.period_s
        table.add_row(each.part, f"{each.tasks_per_s:.1f}", f"{listeners:,.0f}", each.why)
    return table


if __name__ == "__main__":
    main()
