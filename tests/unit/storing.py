"""What the tests of the task store share: jobs, workers' steps, and a look past the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase

from gary.config import DatabaseConfig, TasksConfig
from gary.tasks.music import Length, LinkSource, MusicJob, Receipt, Sampling, Sheet, TaskSource
from gary.tasks.store import MadeTake, TaskStore
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
MUSIC = MusicJob(
    source=LinkSource(url=GENERATE.url, link=GENERATE.link, site="youtube"),
    model="gary-tiny",
    prompt_s=6,
    side="cursor",
    length=Length(bars=8),
    seed=7,
    takes=2,
)
SHEET = Sheet(sample_rate_hz=32000, channels=2, source_samples=192_000, length_samples=704_000, prompt_s=6, bars=8)
RECEIPT = Receipt(
    model="gary-tiny",
    checkpoint_sha256="c",
    codec_sha256="d",
    engine_version="1",
    precision="fp32",
    device="cpu",
    input_sha256="0" * 64,
    length_samples=SHEET.length_samples,
    description=None,
    seed=MUSIC.seed,
    takes=MUSIC.takes,
    sampling=Sampling(),
)
WAV = b"first take"
MADE = [MadeTake(7, WAV, b"codes of the first", 22.0), MadeTake(8, b"second take", b"codes of the second", 22.0)]
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


def going_on_from(task_id: str) -> MusicJob:
    return MUSIC.model_copy(update={"source": TaskSource(task=task_id), "side": "tail"})


async def composing(store: TaskStore, task_id: str | None = None) -> Claim:
    claim = await claimed(store, task_id or await store.create(MUSIC))
    await store.begin_music(claim, SHEET)
    return claim


async def composed(store: TaskStore, task_id: str | None = None) -> Task:
    claim = await composing(store, task_id)
    await store.advance(claim, Status.ENCODING)
    await store.finish_music(claim, MADE, RECEIPT)
    return await store.get(claim.task.id)


async def audio_of(store: TaskStore, task: Task) -> bytes:
    return await bytes_of(store.open_audio(task))


async def bytes_of(opening: Awaitable[tuple[int, AsyncIterator[bytes]]]) -> bytes:
    size_bytes, chunks = await opening
    data = b"".join([chunk async for chunk in chunks])
    assert len(data) == size_bytes
    return data


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
