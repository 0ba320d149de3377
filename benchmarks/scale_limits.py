"""What the task store, the database under it and the conductor can do, each by itself.

The store is driven by one process of ours with so many workers at once; no service is there. The conductor has a whole
service around it, but an engine that answers at once and a source that needs no decoding: an earlier task. SecantusDB
stands for MongoDB in both. Where client and server share the cores, what each took of them is told beside the rate.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import psutil
from bson import ObjectId
from pymongo import MongoClient, monitoring

from benchmarks.scale_engine import CODEBOOKS, FRAMES_PER_S, RATE_HZ
from benchmarks.scale_service import DATABASE
from gary.config import DatabaseConfig, EngineConfig, TasksConfig
from gary.tasks.embedded import EmbeddedDatabase
from gary.tasks.music import Length, MusicJob, Receipt, Sampling, Sheet, TaskSource
from gary.tasks.store import MadeTake, TaskStore
from gary.tasks.task import Claim, Status

WORKERS = 16
_NOBODY = "0" * 24


class Commands(monitoring.CommandListener):
    """Counts what a client sends, by name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.counts[event.command_name] += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@dataclass(frozen=True)
class Phase:
    """One kind of work with the store, by WORKERS at once.

    Attributes:
        operations: sent to the database for each task, by command.
        client_cores, server_cores: taken meanwhile, by our process and by the database's.
    """

    per_s: float
    operations: dict[str, float]
    client_cores: float
    server_cores: float


@dataclass(frozen=True)
class StoreLimits:
    """The store's.

    Attributes:
        kept_bytes: in the database for each finished task, its music included.
        music_bytes: of that music: WAV and codes.
    """

    accepted: Phase
    leased: Phase
    finished: Phase
    kept_bytes: int
    music_bytes: int


async def store_limits(database: EmbeddedDatabase, tasks: int, prompt_s: float, new_s: float) -> StoreLimits:
    """Has so many tasks created, then claimed, then finished with so much music each, prompt and new."""
    config = DatabaseConfig(uri=database.uri)
    commands = Commands()
    # The store makes its own client. There is no way to take a listener back; it counts for nobody else.
    monitoring.register(commands)
    store = TaskStore(database.uri, config, TasksConfig(), unfinished_tasks=2 * tasks)
    await store.open()
    made = _made(prompt_s + new_s)
    claims: list[Claim] = []
    ids: list[str] = []

    async def accept(_: int) -> None:
        ids.append(await store.create(_job(prompt_s, new_s)))

    async def lease(number: int) -> None:
        claim = await store.claim(ids[number], "bench")
        assert claim is not None
        claims.append(claim)

    async def finish(number: int) -> None:
        await store.begin_music(claims[number], _sheet(prompt_s, new_s))
        await store.advance(claims[number], Status.ENCODING)
        await store.finish_music(claims[number], [made], _receipt())

    server = psutil.Process(database.pid)
    try:
        accepted = await _phase(accept, tasks, commands, server)
        leased = await _phase(lease, tasks, commands, server)
        finished = await _phase(finish, tasks, commands, server)
    finally:
        await store.close()
    kept_bytes = _kept_bytes(database.uri, config.name) // tasks
    return StoreLimits(accepted, leased, finished, kept_bytes, music_bytes=len(made.wav) + len(made.codes))


async def _phase(
    work: Callable[[int], Awaitable[None]], tasks: int, commands: Commands, server: psutil.Process
) -> Phase:
    commands.counts.clear()
    numbers = iter(range(tasks))

    async def worker() -> None:
        for number in numbers:
            await work(number)

    since_s, own_s, servers_s = perf_counter(), process_time(), _cpu_s(server)
    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(worker())
    wall_s = perf_counter() - since_s
    operations = {name: count / tasks for name, count in commands.counts.items()}
    return Phase(tasks / wall_s, operations, (process_time() - own_s) / wall_s, (_cpu_s(server) - servers_s) / wall_s)


def _cpu_s(process: psutil.Process) -> float:
    """Of the leash and the server under it."""
    processes = [process, *process.children(recursive=True)]
    return float(sum(sum(each.cpu_times()[:2]) for each in processes))


def _kept_bytes(uri: str, database: str) -> int:
    client: MongoClient[dict[str, Any]]
    with MongoClient(uri) as client:
        return int(client[database].command("dbStats")["dataSize"])


def _job(prompt_s: float, new_s: float) -> MusicJob:
    source = TaskSource(task=_NOBODY)
    return MusicJob(source=source, model="m", prompt_s=prompt_s, side="tail", length=Length(seconds=new_s), seed=1)


def _sheet(prompt_s: float, new_s: float) -> Sheet:
    return Sheet(
        sample_rate_hz=RATE_HZ,
        channels=1,
        source_samples=round(prompt_s * RATE_HZ),
        length_samples=round((prompt_s + new_s) * RATE_HZ),
        prompt_s=prompt_s,
    )


def _made(length_s: float) -> MadeTake:
    wav, codes = bytes(round(2 * length_s * RATE_HZ)), bytes(round(2 * CODEBOOKS * length_s * FRAMES_PER_S))
    return MadeTake(seed=1, wav=wav, codes=codes, duration_s=length_s)


def _receipt() -> Receipt:
    return Receipt(
        model="m",
        checkpoint_sha256=_NOBODY,
        codec_sha256=_NOBODY,
        engine_version="1",
        precision="fp32",
        device="cpu",
        input_sha256="0" * 64,
        length_samples=1,
        description=None,
        seed=1,
        takes=1,
        sampling=Sampling(),
    )


@dataclass(frozen=True)
class Rates:
    """Of tasks that all came at once: how fast they passed each stage, in tasks a second."""

    accepted_per_s: float
    leased_per_s: float
    finished_per_s: float


def rates(uri: str, ids: Sequence[str]) -> Rates:
    """By the times that the service recorded for these tasks."""
    client: MongoClient[dict[str, Any]]
    with MongoClient(uri, tz_aware=True) as client:
        wanted = {"_id": {"$in": list(map(ObjectId, ids))}}
        found: list[dict[str, Any]] = list(client[DATABASE]["tasks"].find(wanted, {"steps": 1}))
    steps = [task["steps"] for task in found]

    def per_s(status: Status) -> float:
        at = sorted(step["at"] for each in steps for step in each if step["status"] == status.value)
        return float((len(at) - 1) / (at[-1] - at[0]).total_seconds())

    return Rates(per_s(Status.QUEUED), per_s(Status.FETCHING), per_s(Status.COMPLETED))


@dataclass(frozen=True)
class EngineTime:
    """So many requests at once in an engine that has a process to itself.

    Attributes:
        wall_s: from the first to the last of them.
        cores: taken meanwhile.
    """

    requests: int
    wall_s: float
    cores: float


def engine_times(requests: Sequence[int], prompt_s: float, new_s: float) -> list[EngineTime]:
    """The tiny checkpoint's, as a replica on the CPU runs it; in a process that ends with the question."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_engine_times, tuple(requests), prompt_s, new_s).result()


def _engine_times(requests: Sequence[int], prompt_s: float, new_s: float) -> list[EngineTime]:
    from deployments.musicgen import start_engine
    from gary.audio.clip import Clip
    from gary.engine.request import GenerationRequest

    models = Path(".models").absolute()
    config = EngineConfig(device="cpu", threads=1, slots=max(requests), hub_cache_dir=models, hub_offline=True)
    engine = start_engine(str(models / "gary-tiny"), config)
    import numpy as np

    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, round(prompt_s * RATE_HZ))).astype(np.float32)
    prompt = Clip(noise, RATE_HZ)  # [C, N]

    async def one(name: str) -> None:
        async for _ in engine.generate(GenerationRequest(name, prompt_s + new_s, seed=1), prompt):
            pass

    async def together(count: int) -> EngineTime:
        since_s, own_s = perf_counter(), process_time()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(f"{count}-{number}"))
        wall_s = perf_counter() - since_s
        return EngineTime(count, wall_s, (process_time() - own_s) / wall_s)

    async def all_of_them() -> list[EngineTime]:
        await together(1)  # warms up
        return [await together(count) for count in requests]

    try:
        return asyncio.run(all_of_them())
    finally:
        engine.close()
