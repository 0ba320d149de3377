"""What the tests of the task store share: jobs, workers' steps, and a look past the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase

from gary.config import DatabaseConfig, TasksConfig
from gary.tasks.store import TaskStore
from gary.tasks.task import Claim, ContinueJob, GenerateJob, Status, Task

Database = AsyncDatabase[dict[str, Any]]

GENERATE = GenerateJob(
    url="https://youtu.be/x",
    link="https://www.youtube.com/watch?v=x",
    site="youtube",
    model="gary-tiny",
    prompt_s=6,
    min_s=16,
    max_s=18,
    seed=2**40,
)
CONTINUE = ContinueJob(url=GENERATE.url, model="gary-tiny", prompt_s=6, length_s=30, seed=2)
QUICK_LEASE = TasksConfig(lease_s=0.05)
UNKNOWN_ID = "0" * 24


@asynccontextmanager
async def opened(
    uri: str, config: DatabaseConfig, tasks: TasksConfig | None = None, unfinished_tasks: int = 500
) -> AsyncIterator[TaskStore]:
    store = TaskStore(uri, config, tasks or TasksConfig(), unfinished_tasks)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def claimed(store: TaskStore, task_id: str | None = None) -> Claim:
    claim = await store.claim(task_id or await store.create(GENERATE), "worker")
    assert claim is not None
    return claim


async def encoding(store: TaskStore, task_id: str | None = None) -> Claim:
    claim = await claimed(store, task_id)
    await store.advance(claim, Status.GENERATING)
    await store.advance(claim, Status.ENCODING)
    return claim


async def audio_of(store: TaskStore, task: Task) -> bytes:
    _, chunks = await store.open_audio(task)
    return b"".join([chunk async for chunk in chunks])


async def is_claimable(store: TaskStore, task_id: str) -> bool:
    return task_id in await store.claimable(limit=10)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110  the server tells nobody when it does
            await asyncio.sleep(0.01)


async def stored(raw: Database) -> tuple[int, int, int]:
    """Files, chunks and rows of the ledger."""
    counts = [await raw[name].count_documents({}) for name in ("audio.files", "audio.chunks", "audio.ledger")]
    return counts[0], counts[1], counts[2]


async def pass_an_hour(raw: Database) -> None:
    """Makes every row of the ledger due."""
    await raw["audio.ledger"].update_many({}, {"$set": {"look_at": datetime.now(UTC) - timedelta(seconds=1)}})
