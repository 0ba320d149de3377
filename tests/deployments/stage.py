"""A conductor with real parts around it, but for an engine that does what it is told to; no HTTP.

The test itself is the task store's other client, as the API would be.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from ray import serve

from deployments import conductor, cropper, fetcher, musicgen
from deployments.handles import Handle
from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from gary.config import AppArgs, DatabaseConfig, EngineConfig, ModelSpec, SourcesConfig, TasksConfig
from gary.tasks.music import Length, MusicJob, MusicSource
from gary.tasks.store import TaskStore
from gary.tasks.task import ContinueJob, GenerateJob, Status, Task
from tests.deployments.playing import PlayingEngine
from tests.media import MediaServer
from tests.running import replica_pids

APP_NAME = "stage"
MODEL = ModelSpec(name="playing", checkpoint="playing", size="tiny")
OTHER_MODEL = ModelSpec(name="other", checkpoint="other", size="tiny")  # of another codec
TASKS = TasksConfig(lease_s=60, sweep_s=3600, watch_s=0.2, backoff_s=0.2, progress_s=0.1)
_SECOND = Clip(np.full((1, 32_000), 0.25, np.float32), 32_000)


@dataclass(frozen=True)
class Stage:
    """What a test sees of it."""

    conductor: Handle
    store: TaskStore

    async def generate(self, url: str, description: str | None = None, start_s: float = 0.0) -> str:
        return await new_generation(self.store, url, description, start_s)

    async def continue_(self, description: str | None = None) -> str:
        """A task that needs no download."""
        return await new_continuation(self.store, description)

    async def music(self, source: MusicSource, upload: bytes | None = None, **asked: Any) -> str:
        """A music job: three seconds after a prompt of two, unless something else is asked."""
        job: dict[str, Any] = {
            "model": MODEL.name,
            "prompt_s": 2,
            "side": "tail",
            "length": Length(seconds=3),
            "seed": 7,
        }
        return await self.store.create(MusicJob(source=source, **(job | asked)), upload=upload)

    async def done(self, task_id: str) -> Task:
        """The task after one attempt at it."""
        await self.conductor.run.remote(task_id)
        return await self.store.get(task_id)

    async def reached(self, task_id: str, *statuses: Status) -> Task:
        """The task once it has one of `statuses`."""

        async def there() -> bool:
            return (await self.store.get(task_id)).status in statuses

        await until(there, f"{statuses} of task {task_id}")
        return await self.store.get(task_id)

    async def engine_has(self, task_id: str) -> None:
        """Waits until the engine is at a task: that it generates is said before it is asked to."""

        async def there() -> bool:
            return (await self.store.get(task_id)).progress > 0

        await until(there, f"progress of task {task_id}")


async def new_generation(store: TaskStore, url: str, description: str | None = None, start_s: float = 0.0) -> str:
    job = GenerateJob(
        url=url,
        link=url,
        site="direct",
        start_s=start_s,
        model=MODEL.name,
        prompt_s=2,
        min_s=4,
        max_s=6,
        seed=1,
        description=description,
    )
    return await store.create(job)


async def new_continuation(store: TaskStore, description: str | None = None) -> str:
    url = "http://example.org/"
    job = ContinueJob(url=url, model=MODEL.name, prompt_s=0.5, length_s=2, seed=1, description=description)
    task_id = await new_generation(store, url)
    await store.restart(task_id, job, encode_wav(_SECOND))
    return task_id


@asynccontextmanager
async def staged(
    database: DatabaseConfig, media: MediaServer, tasks: TasksConfig = TASKS, app_name: str = APP_NAME
) -> AsyncIterator[Stage]:
    """Deploys it on the Ray that runs."""
    assert database.uri is not None
    sources = SourcesConfig(allow_direct_urls=(media.host, "127.0.0.1:1"))
    models = (MODEL, OTHER_MODEL)
    args = AppArgs(models=models, default_model=MODEL.name, sources=sources, database=database, tasks=tasks)
    playing = musicgen.deployment.bind(
        models, EngineConfig(), start=lambda checkpoint, config: PlayingEngine(checkpoint)
    )
    fetching, cropping = fetcher.deployment.bind(args.limits, sources), cropper.deployment.bind(args.limits)
    conducting = conductor.deployment.bind(args, database.uri, fetching, cropping, {MODEL.size: playing}, None)
    handle = await asyncio.to_thread(serve.run, conducting, name=app_name, route_prefix=None)
    store = TaskStore(database.uri, database, tasks)
    try:
        yield Stage(handle, store)
    finally:
        await store.close()
        await asyncio.to_thread(serve.delete, app_name)


async def until(condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 60) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not await condition():  # noqa: ASYNC110  other processes tell nobody
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        raise AssertionError(f"not within {timeout_s:g} s: {what}") from error


def children(deployment: str) -> list[psutil.Process]:
    """What the replicas of a deployment have started and what runs still."""
    pids = replica_pids(deployment, APP_NAME)
    return [child for pid in pids for child in psutil.Process(pid).children(recursive=True)]


def temporary_files(deployment: str) -> list[str]:
    """Files without a name that the replicas of a deployment hold open in the directory for temporary ones."""
    links = [link for pid in replica_pids(deployment, APP_NAME) for link in Path(f"/proc/{pid}/fd").iterdir()]
    return [target for link in links if (target := _target(link)).startswith("/tmp/") and "(deleted)" in target]


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:  # closed in this moment
        return ""
