"""How many tasks the store lets in, what it says of itself, and when it says to come again."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from bson import ObjectId

from gary.config import DatabaseConfig, TasksConfig
from gary.errors import DeviceError, MediaError, QueueFull, UnknownTask
from gary.tasks.queue import RATE_WINDOW, backoff_s, retry_after_s
from gary.tasks.store import TaskStore
from gary.tasks.task import Place, QueueState, Status
from tests.unit.storing import CONTINUE, GENERATE, UNKNOWN_ID, Database, claimed, encoding, opened, stored


async def test_no_more_tasks_get_in_than_may_be_unfinished(uri: str, config: DatabaseConfig) -> None:
    """Forty at once where seven may: seven get in. One that ends, however it ends, makes room for one."""
    async with opened(uri, config, unfinished_tasks=7) as store:
        outcomes = await asyncio.gather(*(store.create(GENERATE) for _ in range(40)), return_exceptions=True)
        ids = [outcome for outcome in outcomes if isinstance(outcome, str)]
        refused = [outcome for outcome in outcomes if isinstance(outcome, QueueFull)]
        assert (len(ids), len(refused)) == (7, 33)
        assert {error.retry_after_s for error in refused} == {30.0}  # nothing has finished yet
        working = await claimed(store, ids[0])
        with pytest.raises(QueueFull):  # in a worker's hands it is unfinished still
            await store.create(GENERATE)
        await store.fail(working, MediaError("no"))
        await store.create(GENERATE)
        await store.cancel(ids[1])
        await store.create(GENERATE)
        with pytest.raises(QueueFull):
            await store.create(GENERATE)


async def test_when_to_come_again_follows_what_finished_lately(uri: str, config: DatabaseConfig, raw: Database) -> None:
    """Twenty tasks in five minutes: one in fifteen seconds; those of before, and cancelled ones, do not count."""
    async with opened(uri, config, unfinished_tasks=1) as store:
        for number in range(30):
            claim = await claimed(store)
            await store.fail(claim, MediaError("no"))
            if number < 10:
                before = (await store.get(claim.task.id)).finished_at
                assert before is not None
                change = {"$set": {"finished_at": before - RATE_WINDOW}}
                await raw["tasks"].update_one({"_id": ObjectId(claim.task.id)}, change)
            elif number == 10:
                first = (await store.get(claim.task.id)).finished_at
                assert first is not None
                change = {"$set": {"finished_at": first - timedelta(minutes=5)}}
                await raw["tasks"].update_one({"_id": ObjectId(claim.task.id)}, change)
        await store.cancel(await store.create(GENERATE))
        await store.create(GENERATE)
        with pytest.raises(QueueFull) as caught:
            await store.create(GENERATE)
        assert caught.value.retry_after_s == pytest.approx(15.0, rel=0.05)  # the test itself takes a moment
        assert (await store.queue()).finished_per_minute == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize(
    ("per_minute", "expected_s"), [(None, 30.0), (2.0, 30.0), (0.1, 120.0), (600.0, 1.0)], ids=repr
)
def test_when_to_come_again_is_bounded(per_minute: float | None, expected_s: float) -> None:
    """A task's time at the measured rate, from 1 s to 2 minutes; half a minute where there is no rate."""
    assert retry_after_s(per_minute) == expected_s


async def test_a_full_house_takes_a_finished_task_back_no_more_than_a_new_one(
    uri: str, config: DatabaseConfig, raw: Database
) -> None:
    """A restart of a finished task is one more task; that of an unfinished one is not. A refusal keeps no upload."""
    async with opened(uri, config, unfinished_tasks=1) as store:
        done = await encoding(store)
        await store.finish(done, b"wav")
        waiting = await store.create(GENERATE)
        with pytest.raises(QueueFull):
            await store.restart(done.task.id, CONTINUE, b"upload")
        assert (await store.get(done.task.id)).status is Status.COMPLETED
        assert await stored(raw) == (1, 1, 1)
        with pytest.raises(UnknownTask):
            await store.restart(UNKNOWN_ID, CONTINUE, b"upload")
        await store.restart(waiting, CONTINUE, b"upload")
        assert (await store.get(waiting)).job == CONTINUE


async def test_the_queue_says_how_busy_the_house_is(uri: str, config: DatabaseConfig, raw: Database) -> None:
    """Nothing at first; then what waits and for how long, what is worked on, and the rate."""
    async with opened(uri, config) as store:
        assert await store.queue() == QueueState(queued=0, working=0, oldest_waiting_s=None, finished_per_minute=None)
        await store.fail(await claimed(store), MediaError("no"))
        await claimed(store)
        await encoding(store)
        await store.create(GENERATE)
        oldest = await store.get(await store.create(GENERATE))
        queued_at = oldest.queued_at - timedelta(minutes=5)
        await raw["tasks"].update_one({"_id": ObjectId(oldest.id)}, {"$set": {"queued_at": queued_at}})
        state = await store.queue()
        assert (state.queued, state.working, state.finished_per_minute) == (2, 2, 1.0)  # a minute at least
        assert state.oldest_waiting_s is not None
        assert 300 <= state.oldest_waiting_s < 330


@pytest.mark.parametrize(("attempts", "longest_s"), [(1, 2.0), (2, 4.0), (3, 8.0), (4, 10.0), (2000, 10.0)])
def test_the_wait_before_an_attempt_doubles_up_to_its_bound(attempts: int, longest_s: float) -> None:
    """Half of it is certain, half by chance."""
    config = TasksConfig(backoff_s=2.0, backoff_max_s=10.0)
    assert backoff_s(attempts, config, draw=lambda: 0.0) == longest_s / 2
    assert backoff_s(attempts, config, draw=lambda: 1.0) == longest_s


async def test_a_task_that_waits_for_its_next_attempt_counts_as_queued(store: TaskStore) -> None:
    """Backing off is waiting: it is unfinished, and nobody may claim it yet."""
    claim = await claimed(store)
    await store.release(claim, DeviceError("gone"))
    assert (await store.queue()).queued == 1
    assert await store.claimable(limit=10) == []
    assert await store.claim(claim.task.id, "worker") is None


async def test_a_queued_task_knows_its_place(uri: str, config: DatabaseConfig, raw: Database) -> None:
    """Behind those that came before it, at the rate of late; as they are begun or cancelled it moves up."""
    async with opened(uri, config) as store, opened(uri, config) as later:
        ids = [await store.create(GENERATE) for _ in range(4)]
        first = await store.get(ids[0])
        for number, task_id in enumerate(ids):  # else they might have come within a millisecond
            change = {"$set": {"queued_at": first.queued_at + timedelta(seconds=number)}}
            await raw["tasks"].update_one({"_id": ObjectId(task_id)}, change)
        tasks = [await store.get(task_id) for task_id in ids]
        assert [await store.place(task) for task in tasks] == [Place(position=n, eta_s=None) for n in (1, 2, 3, 4)]
        await claimed(store, ids[0])
        await store.cancel(ids[1])
        assert (await store.place(tasks[3])).position == 2
        await store.fail(await claimed(store, ids[2]), MediaError("no"))
        assert await later.place(tasks[3]) == Place(position=1, eta_s=60.0)  # it has not asked for the rate before
