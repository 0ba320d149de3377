"""What a task store tells of its changes, and what becomes of it as metrics: on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from deployments import metrics
from deployments.metrics import NONE, Meter
from deployments.witness import TaskWitness
from gary.config import DatabaseConfig, TasksConfig
from gary.errors import DeviceError, MediaError, SourceError
from gary.tasks.store import TaskStore
from gary.tasks.task import QueueState, Status
from tests.unit.metering import Kept
from tests.unit.storing import CONTINUE, GENERATE, MADE, MUSIC, QUICK_LEASE, claimed, composed, is_claimable, until


@asynccontextmanager
async def watched(
    uri: str, config: DatabaseConfig, tasks: TasksConfig | None = None
) -> AsyncIterator[tuple[TaskStore, Kept]]:
    witness = TaskWitness(Meter(kept := Kept()))
    store = TaskStore(uri, config, tasks or TasksConfig(), witness=witness)
    await store.open()
    try:
        yield store, kept
    finally:
        await store.close()


async def test_a_task_that_goes_well(uri: str, config: DatabaseConfig) -> None:
    """Let in, begun once, each stage timed once, completed once; a step told twice is one."""
    async with watched(uri, config) as (store, kept):
        task = await composed(store, await store.create(MUSIC))
        assert task.status is Status.COMPLETED
        assert kept.of(metrics.TASKS_ACCEPTED) == kept.of(metrics.TASK_ATTEMPTS) == 1
        assert kept.of(metrics.TASKS_FINISHED, "completed", NONE) == 1
        for stage in metrics.STAGES:
            (stage_s,) = kept.observed[(metrics.TASK_STAGE.name, stage)]
            assert 0 <= stage_s < 10
        (task_s,) = kept.observed[(metrics.TASK.name,)]
        assert task_s >= max(s for (name, *_), (s,) in kept.observed.items() if name == metrics.TASK_STAGE.name)
        assert kept.of(metrics.AUDIO_STORED) == sum(len(take.wav) + len(take.codes) for take in MADE)
        assert kept.of(metrics.TASK_TAKEOVERS) == 0


async def test_attempts_that_fail(uri: str, config: DatabaseConfig) -> None:
    """A retry for each attempt that another follows, by its code, and one failure at the end; the stage that was cut
    short is not timed."""
    async with watched(uri, config, TasksConfig(max_attempts=2, backoff_s=0)) as (store, kept):
        task_id = await store.create(GENERATE)
        for _ in range(2):
            await store.release(await claimed(store, task_id), DeviceError("the device failed"))
        assert (await store.get(task_id)).status is Status.FAILED
        assert kept.of(metrics.TASK_ATTEMPTS) == 2
        assert kept.of(metrics.TASK_RETRIES, "device_failed") == 1
        assert kept.of(metrics.TASKS_FINISHED, "failed", "device_failed") == 1
        assert (metrics.TASK_STAGE.name, "fetching") not in kept.observed
        assert len(kept.observed[(metrics.TASK_STAGE.name, "queued")]) == 2


async def test_codes_of_failures(uri: str, config: DatabaseConfig) -> None:
    """Known ones by their name, all others as one."""
    async with watched(uri, config) as (store, kept):
        await store.fail(await claimed(store), SourceError("private", "private"))
        await store.fail(await claimed(store), MediaError("strange", "never_heard_of"))
        assert kept.of(metrics.TASKS_FINISHED, "failed", "private") == 1
        assert kept.of(metrics.TASKS_FINISHED, "failed", "other") == 1


async def test_a_takeover(uri: str, config: DatabaseConfig) -> None:
    """The next claim of a task whose worker is not heard of counts as one; the last such claim fails it."""
    tasks = QUICK_LEASE.model_copy(update={"max_attempts": 2})
    async with watched(uri, config, tasks) as (store, kept):
        task_id = (await claimed(store)).task.id
        await until(lambda: is_claimable(store, task_id))
        await claimed(store, task_id)
        assert (kept.of(metrics.TASK_TAKEOVERS), kept.of(metrics.TASK_ATTEMPTS)) == (1, 2)
        await until(lambda: is_claimable(store, task_id))
        assert await store.claim(task_id, "worker") is None
        assert kept.of(metrics.TASKS_FINISHED, "failed", "attempts_exhausted") == 1
        assert kept.of(metrics.TASK_TAKEOVERS) == 1


async def test_cancelled_and_given_another_job(uri: str, config: DatabaseConfig) -> None:
    """A cancellation counts once however often it is asked for; a new job counts as let in, and no retry."""
    async with watched(uri, config) as (store, kept):
        task_id = await store.create(GENERATE)
        for _ in range(2):
            await store.cancel(task_id)
        assert kept.of(metrics.TASKS_FINISHED, "cancelled", NONE) == 1
        await store.restart(task_id, CONTINUE, b"an upload")
        assert kept.of(metrics.TASKS_ACCEPTED) == 2
        assert kept.of(metrics.AUDIO_STORED) == len(b"an upload")
        assert not [key for key in kept.values if key[0] == metrics.TASK_RETRIES.name]


async def test_the_queue(uri: str, config: DatabaseConfig) -> None:
    """As the store sees it; nobody waiting is no wait."""
    async with watched(uri, config) as (store, kept):
        witness = TaskWitness(Meter(kept))
        witness.queue(QueueState(queued=0, working=2, oldest_waiting_s=None, finished_per_minute=None))
        assert kept.of(metrics.QUEUE_OLDEST_WAIT) == 0
        assert kept.of(metrics.DATABASE_UP) == 1
        witness.no_database()
        assert kept.of(metrics.DATABASE_UP) == 0
        before = datetime.now(UTC)
        await store.create(GENERATE)
        witness.queue(await store.queue())
        assert (kept.of(metrics.QUEUE_TASKS, "queued"), kept.of(metrics.QUEUE_TASKS, "working")) == (1, 0)
        assert 0 <= kept.of(metrics.QUEUE_OLDEST_WAIT) <= (datetime.now(UTC) - before).total_seconds() + 0.1
