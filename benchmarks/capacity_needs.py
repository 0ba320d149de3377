"""What so many listeners need, and which part gives way first.

What a task takes of everything but the GPU is measured (`scripts/bench scale`). Nothing of a GPU is: its steps are
inputs, named `Device`, as are a listener's habits. How many GPUs keep to the rule of the knee is simulated; the rest is
arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil
from statistics import median

import numpy as np

from benchmarks.capacity_model import house
from benchmarks.pools import Job, Network, Pool, Visit
from benchmarks.scale_curve import SLOWER_MAX, percentile
from benchmarks.scale_figures import Figures
from gary.config import Limits, TasksConfig

LISTENERS = (10, 1_000, 100_000)
CELL_LISTENERS = 10_000  # more are so many services of this size, beside each other
_TASKS = 2_000  # simulated, for each number of GPUs that is tried
_FRAMES_PER_S, _RATE_HZ, _SAMPLE_BYTES = 50, 32_000, 2
_PREFILL_STEPS = 8  # what feeding a prompt costs, in steps
_LIVE_LOOKS_PER_S = 10  # of a live listener, at the database; gary/api/v1/live.py
_SOURCE_BYTES = 42 * 44_100 * 2 * 4  # the window that a tempo is heard in, in stereo and float32
_OPENING_S = 2.0  # for which one lies in the object store
MACHINE_CORES, MACHINE_SHARE = 16, 0.6  # of a machine without a GPU, and how full it may be


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
        object_store_bytes: of Ray's, decoded sources that wait to be cut.
        machines: for all that needs no GPU, the database apart.
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
    object_store_bytes: float
    machines: int


def need(figures: Figures, habit: Habit, listeners: int) -> Need:
    """By simulation the GPUs, by arithmetic the rest."""
    rate_per_s, costs = listeners / habit.period_s, cost(figures, habit)
    cells = max(1, ceil(listeners / CELL_LISTENERS))
    alone = house(figures, "paced").stages_s
    around_s = sum(alone.values()) - alone["generate_s"]
    fleets = {device.size: _fleet(around_s, habit, device, rate_per_s / cells) for device in DEVICES}
    _, task_s = fleets["small"]
    links_per_s = habit.link_share * rate_per_s
    cores = {part: each_s * rate_per_s for part, each_s in costs.cores_s.items() if part != "database"}
    looks_per_s = rate_per_s * _generate_s(habit, DEVICES[0], 1) * _LIVE_LOOKS_PER_S
    return Need(
        listeners=listeners,
        tasks_per_s=rate_per_s,
        gpus={size: cells * gpus for size, (gpus, _) in fleets.items()},
        task_s=task_s,
        unfinished=rate_per_s * task_s,
        cores=cores | {"database": costs.cores_s["database"] * rate_per_s},
        operations_per_s=costs.operations * rate_per_s + looks_per_s,
        database_in_bytes_per_s=costs.written_bytes * rate_per_s,
        kept_bytes=costs.kept_bytes * rate_per_s * TasksConfig().ttl_s,
        out_bytes_per_s=habit.wav_bytes * rate_per_s,
        in_bytes_per_s=links_per_s * habit.link_bytes,
        object_store_bytes=links_per_s * _OPENING_S * _SOURCE_BYTES,
        machines=ceil(sum(cores.values()) / (MACHINE_CORES * MACHINE_SHARE)),
    )


def _generate_s(habit: Habit, device: Device, requests: int) -> float:
    steps = habit.new_s * _FRAMES_PER_S + _PREFILL_STEPS
    return steps * (device.step_s + (requests - 1) * device.request_s)


@cache
def _fleet(around_s: float, habit: Habit, device: Device, rate_per_s: float) -> tuple[int, float]:
    """The fewest GPUs under which 95 % of the tasks take less than twice a lone one's time; and the median time.

    Args:
        around_s: of a lone task, all but generating.
    """
    alone_s = around_s + _generate_s(habit, device, 1)
    gpus = max(1, ceil(rate_per_s / _full_per_s(habit, device)))
    while True:
        times_s = _task_times_s(around_s, habit, device, rate_per_s, gpus)
        if percentile(times_s, 0.95) < SLOWER_MAX * alone_s:
            return gpus, median(times_s)
        gpus = ceil(1.05 * gpus)


def _task_times_s(around_s: float, habit: Habit, device: Device, rate_per_s: float, gpus: int) -> list[float]:
    """Of Poisson arrivals, all but the GPUs having room enough; fetching shifts them, and they stay Poisson."""
    alone_s = _generate_s(habit, device, 1)
    pools = [Pool(), *[Pool(device.requests, lambda jobs: alone_s / _generate_s(habit, device, jobs))] * gpus]
    visits = (Visit((0,), around_s), Visit(tuple(range(1, gpus + 1)), alone_s))
    at_s = np.cumsum(np.random.default_rng(1).exponential(1 / rate_per_s, _TASKS)).tolist()
    ends_s = Network(pools).run([Job(each, visits) for each in at_s])
    return [end - begin for end, begin in zip(ends_s, at_s, strict=True)]


def _full_per_s(habit: Habit, device: Device) -> float:
    """Tasks a second of a GPU that is full."""
    return device.requests / _generate_s(habit, device, device.requests)


@dataclass(frozen=True)
class Ceiling:
    """A part as production's file has it, the load that fills it, and what to do then."""

    part: str
    tasks_per_s: float
    then: str


def ceilings(figures: Figures, habit: Habit) -> list[Ceiling]:
    """The parts that give way, the first to do so first."""
    costs, small = cost(figures, habit), DEVICES[0]
    gpu = _full_per_s(habit, small)
    task_s = need(figures, habit, 1_000).task_s
    kept_s = costs.kept_bytes * TasksConfig().ttl_s
    found = [
        Ceiling("1 TB of disk, music kept for a week", 1e12 / kept_s, "a shorter tasks.ttl_s; then an object store"),
        Ceiling("a GPU, small (assumed)", gpu, "another: max_replicas"),
        Ceiling("4 GPUs, small: max_replicas", 4 * gpu, "raise it, and the GPU type's max_workers"),
        Ceiling("embedded database, finishing", float(figures.store["finished"]["per_s"]), "MongoDB"),
        Ceiling("a 1 Gbit/s line out, WAV", 125e6 / habit.wav_bytes, "Opus; then a line for each node's proxy"),
        Ceiling("2 conductors, a core each", 2 / costs.cores_s["conductor"], "more: num_replicas"),
        Ceiling("2 ingresses, a core each", 2 / costs.cores_s["ingress"], "HAProxy; then more: num_replicas"),
        Ceiling("limits.unfinished_tasks", Limits().unfinished_tasks / task_s, "raise it with the GPUs; then cells"),
    ]
    return sorted(found, key=lambda each: each.tasks_per_s)
