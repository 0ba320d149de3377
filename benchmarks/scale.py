"""Throughput and task time against offered load and replicas, and each part's own limit: `scripts/bench scale`.

Tasks arrive as a Poisson process whether or not those before them are done, and are counted from their scheduled
arrival to the end that the service recorded. Two series:

    tiny     the tiny checkpoint, really computed, continuing uploads: the product as it is. Clients, database, Ray and
             every replica share this machine's cores, so more replicas are more processes on the same cores
    paced    an engine that is a timer and takes no core, continuing earlier tasks: how the service itself scales with
             replicas where decoding has devices of its own

Then the task store and the conductor by themselves. The knee's rule stands in `scale_curve.py`; what the figures mean
for more machines, in `capacity.py`, which reads the file that a run writes. One JSON line last: the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks import scale_limits
from benchmarks.scale_curve import knee_per_s, point
from benchmarks.scale_figures import Engine, Figures, Measured, Series, Stages, read_figures, write_figures
from benchmarks.scale_load import Asked, Job, arrivals_s, offer, one_by_one
from benchmarks.scale_parts import read, spent
from benchmarks.scale_plot import plot
from benchmarks.scale_service import Ground, Service, Setting, ground
from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.files import encode_wav

PROMPT_S, NEW_S = 4.0, 3.0  # of the series
LIMITS_PROMPT_S, LIMITS_NEW_S = 6.0, 20.0  # of the store and the conductor by themselves: a listener's usual task
SOURCE_BARS, SOURCE_BPM, SOURCE_RATE_HZ = 4, 120.0, 44_100  # 8 s
ALONE, WARM_UP = 5, 2
TINY_SLOTS = 8
PACED_SLOTS, PACED_STEP_S = 2, 0.01  # 1.5 s in a slot
ENGINE_REQUESTS = (1, 2, 4, 8)
PARTS = (TINY, PACED, LIMITS) = ("tiny", "paced", "limits")


@dataclass(frozen=True)
class Loads:
    """What one setting is offered, in tasks a second, and for how long each."""

    setting: Setting
    rates_per_s: tuple[float, ...]
    window_s: float


FULL = (
    Loads(Setting(1, TINY_SLOTS), (0.6, 1.2, 1.8, 2.4), 11.0),
    Loads(Setting(2, TINY_SLOTS), (1.2, 2.4), 9.0),
    Loads(Setting(4, TINY_SLOTS), (1.2, 2.4), 9.0),
    Loads(Setting(1, PACED_SLOTS, PACED_STEP_S), (0.6, 0.9, 1.2), 13.0),
    Loads(Setting(2, PACED_SLOTS, PACED_STEP_S), (1.6, 2.2, 2.8), 10.0),
    Loads(Setting(4, PACED_SLOTS, PACED_STEP_S), (3.2, 4.4, 5.6), 9.0),
)
QUICK = (
    Loads(Setting(1, TINY_SLOTS), (1.0,), 4.0),
    Loads(Setting(1, PACED_SLOTS, PACED_STEP_S), (0.8, 1.6), 6.0),
)


def main() -> None:
    """Prints each load as it is measured, writes figures and picture where asked to, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a minute, few tasks: whether it works, not how fast")
    parser.add_argument("--only", choices=PARTS, nargs="+", help="measures these; the rest stays as --figures has it")
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals")
    parser.add_argument("--store-tasks", type=int, default=80, help="for the store by itself")
    parser.add_argument("--burst", type=int, default=80, help="tasks for the conductor by itself, all at once")
    parser.add_argument("--figures", type=Path, help="a JSON file to write, for benchmarks/capacity.py")
    parser.add_argument("--picture", type=Path, help="a PNG file to write")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray and the database end with us, however we are told
    measured = options.only or list(PARTS)
    kept = _kept(options.figures, measured) if options.only else Figures()
    for figures in _measured_more(kept, measured, options):  # written each time: a run may break off
        if options.figures:
            write_figures(figures, options.figures)
    if options.picture:
        plot(figures, options.picture)
    print(json.dumps(asdict(figures)))


def _kept(path: Path | None, measured: Sequence[str]) -> Figures:
    """What a file has of the parts that are not measured now."""
    if path is None or not path.exists():
        return Figures()
    kept = read_figures(path)
    return replace(kept, series=[each for each in kept.series if each.engine not in measured])


def _measured_more(figures: Figures, measured: Sequence[str], options: argparse.Namespace) -> Iterator[Figures]:
    """These figures with one part after the other."""
    run = {"load_average_before": round(os.getloadavg()[0], 2), "niceness": os.nice(0)}
    runs = {**figures.conditions.get("runs", {}), **dict.fromkeys(measured, run)}
    figures = replace(figures, conditions=_conditions(options) | {"runs": runs})
    since_s = perf_counter()
    if TINY in measured:
        figures = replace(figures, engine=_ceiling())
    with ground() as here:
        for loads in QUICK if options.quick else FULL:
            if _kind(loads.setting) in measured:
                series = sorted([*figures.series, _measured(here, loads, options.seed)], key=_order)
                yield (figures := replace(figures, series=series))
        if LIMITS in measured:
            figures = replace(figures, conductor=_conductor_limits(here, options.burst))
            yield (figures := replace(figures, store=_store_limits(here, options.store_tasks)))
    run["wall_s"] = round(perf_counter() - since_s)
    yield figures


def _conditions(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "machine": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "database": "SecantusDB, embedded",
        "seed": options.seed,
        "quick": options.quick,
        "upload_bytes": len(_upload()),
        "prompt_s": PROMPT_S,
        "new_s": NEW_S,
        "limits_prompt_s": LIMITS_PROMPT_S,
        "limits_new_s": LIMITS_NEW_S,
    }


def _processor() -> str:
    """Not `benchmarks.engine.machine`, which loads torch."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _kind(setting: Setting) -> str:
    return TINY if setting.step_s is None else PACED


def _order(series: Series) -> tuple[int, int]:
    return PARTS.index(series.engine), series.replicas


def _ceiling() -> list[Engine]:
    """What the tiny checkpoint's engine makes with nothing around it."""
    times = scale_limits.engine_times(ENGINE_REQUESTS, PROMPT_S, NEW_S)
    for each in times:
        rate_per_s = each.requests / each.wall_s
        print(
            f"ceiling: {rate_per_s:.1f} tasks/s, {each.requests} at once, by the engine alone, {each.cores:.2f} cores"
        )
    return [Engine(each.requests, round(each.wall_s, 4), round(each.cores, 3)) for each in times]


def _measured(here: Ground, loads: Loads, seed: int) -> Series:
    """One setting: tasks alone, then each load in turn."""
    setting = loads.setting
    kind = _kind(setting)
    with here.service(setting) as service:
        job = _job(service)
        alone = asyncio.run(one_by_one(service, job, ALONE))[WARM_UP:]
        alone_s = median(_times_s(alone))
        print(f"{kind}, {setting.replicas} replicas: a task alone takes {alone_s:.2f} s", flush=True)
        points = [_load(service, job, rate, loads.window_s, seed, alone_s) for rate in loads.rates_per_s]
    knee = knee_per_s([each.point for each in points], alone_s)
    return Series(
        engine=kind,
        replicas=setting.replicas,
        slots=setting.slots,
        step_s=setting.step_s,
        alone_s=round(alone_s, 4),
        alone=_stages(alone),
        points=points,
        knee_per_s=None if knee is None else round(knee, 3),
    )


def _load(service: Service, job: Job, rate_per_s: float, window_s: float, seed: int, alone_s: float) -> Measured:
    at_s = arrivals_s(rate_per_s, window_s, seed)
    before = read(service.uri)
    asked = asyncio.run(offer(service, job, at_s))
    took = spent(before, read(service.uri))
    times_s = [each.stages.all_s if each.stages is not None else None for each in asked]
    measured = Measured(
        point=point(at_s, times_s, window_s, alone_s).rounded(),
        seed=seed,
        wall_s=round(took.wall_s, 2),
        stages=_stages(asked),
        cores={part: round(cores, 3) for part, cores in took.cores.items() if cores >= 0.001},
        others_cores=round(took.others_cores, 2),
        operations={kind: round(each * took.wall_s / len(at_s), 1) for kind, each in took.operations_per_s.items()},
    )
    print(f"  {measured.point}, {took.all_cores:.2f} cores, others {took.others_cores:.2f}", flush=True)
    return measured


def _conductor_limits(here: Ground, burst: int) -> dict[str, Any]:
    """A burst for one conductor and one ingress, with an engine that answers at once."""
    with here.service(Setting(1, burst, 0.0)) as service:
        job = replace(_job(service), prompt_s=LIMITS_PROMPT_S, new_s=LIMITS_NEW_S)
        asyncio.run(one_by_one(service, job, WARM_UP))
        before = read(service.uri)
        asked = asyncio.run(offer(service, job, [0.0] * burst))
        took = spent(before, read(service.uri))
        ids = [each.task_id for each in asked if each.task_id is not None]
        rates = scale_limits.rates(service.uri, ids)
    print(f"the conductor by itself: {rates}, {took.all_cores:.2f} cores", flush=True)
    cpu_s = {part: round(cores * took.wall_s / burst, 4) for part, cores in took.cores.items() if cores >= 0.01}
    operations = {kind: round(each * took.wall_s / burst, 1) for kind, each in took.operations_per_s.items()}
    return {
        "tasks": burst,
        **_rounded(asdict(rates)),
        "cpu_s_per_task": cpu_s,
        "others_cores": round(took.others_cores, 2),
        "operations_per_task": operations,
    }


def _store_limits(here: Ground, tasks: int) -> dict[str, Any]:
    with here.database() as database:
        limits = asyncio.run(scale_limits.store_limits(database, tasks, LIMITS_PROMPT_S, LIMITS_NEW_S))
    print(f"the store by itself: {limits}", flush=True)
    return _rounded(asdict(limits))


def _job(service: Service) -> Job:
    """Of the tiny checkpoint uploads are continued, of a timer an earlier task, which costs the cores less."""
    upload = Job(_upload(), PROMPT_S, NEW_S)
    if service.setting.step_s is None:
        return upload
    (parent,) = asyncio.run(one_by_one(service, upload, 1))
    assert parent.task_id is not None
    return Job(parent.task_id, PROMPT_S, NEW_S)


def _upload() -> bytes:
    loop = make_loop(SOURCE_BPM, SOURCE_BARS, "rock", rate_hz=SOURCE_RATE_HZ, seed=4)
    return encode_wav(Clip(loop[None], SOURCE_RATE_HZ))


def _times_s(asked: Sequence[Asked]) -> list[float]:
    return [each.stages.all_s for each in asked if each.stages is not None]


def _stages(asked: Sequence[Asked]) -> Stages:
    """Medians of each stage."""
    taken = [asdict(each.stages) for each in asked if each.stages is not None]
    return Stages(**{name: round(median(stages[name] for stages in taken), 4) for name in taken[0]})


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """The same, its numbers to three places."""

    def rounded(value: Any) -> Any:
        match value:
            case dict():
                return _rounded(value)
            case float():
                return round(value, 3)
            case _:
                return value

    return {name: rounded(value) for name, value in values.items()}


if __name__ == "__main__":
    main()
