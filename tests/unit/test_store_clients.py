"""What clients do with the task store: create, read, cancel, restart."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from gary.errors import (
    InvalidInput,
    LeaseLost,
    RecoverableError,
    UnknownTask,
)
from gary.tasks.store import TaskStore
from gary.tasks.task import Status
from tests.unit.storing import (
    CONTINUE,
    GENERATE,
    UNKNOWN_ID,
    Database,
    claimed,
    encoding,
    stored,
)


async def test_a_task_comes_back_as_it_was_created(store: TaskStore) -> None:
    """Jobs survive the database, large seeds included; a new task is queued, unfinished and unclaimed."""
    task = await store.get(await store.create(GENERATE))
    assert task.job == GENERATE
    assert type(task.job.seed) is int
    assert (task.status, task.attempts, task.progress, task.lease) == (Status.QUEUED, 0, 0.0, None)
    assert abs(datetime.now(UTC) - task.created_at) < timedelta(minutes=1)


async def test_parallel_creations_give_as_many_tasks(store: TaskStore) -> None:
    """Fifty at once: fifty ids, all claimable, the oldest first."""
    ids = await asyncio.gather(*(store.create(GENERATE) for _ in range(50)))
    found = await store.claimable(limit=100)
    assert sorted(found) == sorted(set(ids))
    queued_at = [(await store.get(task_id)).queued_at for task_id in found]
    assert queued_at == sorted(queued_at)
    for task_id in found[:7]:
        await store.cancel(task_id)
    assert await store.claimable(limit=7) == (await store.claimable(limit=100))[:7]


@pytest.mark.parametrize("task_id", ["", "x", "g" * 24, "0" * 23, "0" * 25, "é" * 12])
async def test_a_malformed_id_is_the_client_s_fault(store: TaskStore, task_id: str) -> None:
    """What is not 24 hexadecimal digits is refused by every method that takes an id."""
    for call in (store.get(task_id), store.cancel(task_id), store.restart(task_id, CONTINUE, b"x")):
        with pytest.raises(InvalidInput) as caught:
            await call
        assert caught.value.code == "malformed_id"


async def test_an_unknown_id_leaves_nothing_behind(store: TaskStore, raw: Database) -> None:
    """Well-formed but unknown: UnknownTask, no claim, and no upload is kept."""
    for call in (store.get(UNKNOWN_ID), store.cancel(UNKNOWN_ID), store.restart(UNKNOWN_ID, CONTINUE, b"x")):
        with pytest.raises(UnknownTask):
            await call
    assert await store.claim(UNKNOWN_ID, "worker") is None
    assert await stored(raw) == (0, 0, 0)


async def test_a_cancelled_task_is_over_for_its_worker(store: TaskStore) -> None:
    """Queued or working: cancelled, never claimed again, the worker refused; a finished task stays as it is."""
    waiting = await store.create(GENERATE)
    assert (await store.cancel(waiting)).status is Status.CANCELLED
    assert await store.claim(waiting, "worker") is None
    claim = await encoding(store)
    await store.cancel(claim.task.id)
    with pytest.raises(LeaseLost):
        await store.finish(claim, b"late")
    done = await encoding(store)
    await store.finish(done, b"wav")
    assert (await store.cancel(done.task.id)).status is Status.COMPLETED


async def test_a_restart_takes_the_task_from_its_worker(store: TaskStore, raw: Database) -> None:
    """The same id has the new job at once; the old worker is refused; files of the old job are gone."""
    old = await encoding(store)
    task_id = old.task.id
    await store.record(old, {"bars": 8})
    await store.restart(task_id, CONTINUE, b"upload")
    task = await store.get(task_id)
    assert (task.status, task.job, task.attempts, task.facts) == (Status.QUEUED, CONTINUE, 0, {})
    assert task.created_at == old.task.created_at
    with pytest.raises(LeaseLost):
        await store.finish(old, b"old")
    new = await encoding(store, task_id)
    assert new.fence > old.fence
    assert await store.read_upload(new.task) == b"upload"
    await store.finish(new, b"first")
    await store.restart(task_id, CONTINUE, b"second upload")
    task = await store.get(task_id)
    assert (task.result, task.progress, task.expires_at) == (None, 0.0, None)
    assert await stored(raw) == (1, 1, 1)
    with pytest.raises(RecoverableError) as caught:
        await store.read_upload(new.task)
    assert caught.value.code == "audio_gone"


async def test_restarts_and_a_busy_worker_do_not_lose_each_other(store: TaskStore, raw: Database) -> None:
    """Four restarts at once under a worker that keeps writing: the last one stands whole, one upload remains."""
    claim = await claimed(store)

    async def work() -> None:
        while True:
            await store.renew(claim)
            await store.set_progress(claim, 0.5)

    worker = asyncio.create_task(work())
    uploads = [bytes([n]) * 1000 for n in range(4)]
    jobs = [CONTINUE.model_copy(update={"seed": n}) for n in range(4)]
    await asyncio.gather(*(store.restart(claim.task.id, jobs[n], uploads[n]) for n in range(4)))
    with pytest.raises(LeaseLost):
        await worker
    task = await store.get(claim.task.id)
    assert task.fence == claim.fence + 4
    assert task.progress == 0.0
    assert await store.read_upload(task) == uploads[task.job.seed]
    assert await stored(raw) == (1, 1, 1)
