"""Tasks that go on from tasks, many tasks at once, and tasks that are forgotten."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

import pytest

from gary.errors import Conflict, InvalidInput, MediaError, RecoverableError, UnknownTask
from gary.tasks.store import TaskStore
from gary.tasks.task import Idempotency, Status
from tests.unit.storing import (
    GENERATE,
    MADE,
    MUSIC,
    UNKNOWN_ID,
    Database,
    bytes_of,
    claimed,
    composed,
    encoding,
    going_on_from,
    stored,
    until,
)

KEY = Idempotency.of("", "key", "create")


async def test_a_task_knows_its_children_and_they_know_it(store: TaskStore) -> None:
    """Those that go on from it, the oldest first, whatever became of them; grandchildren are not among them."""
    parent = await composed(store)
    assert await store.children(parent.id) == ()
    children = [await store.create(going_on_from(parent.id)) for _ in range(3)]
    await store.cancel(children[1])
    await store.create(going_on_from(children[0]))
    await store.create(MUSIC)
    assert await store.children(parent.id) == tuple(children)
    assert (await store.get(children[0])).parent == parent.id
    assert await store.children(UNKNOWN_ID) == ()
    with pytest.raises(InvalidInput):
        await store.children("x")


async def test_lineage_is_found_without_a_walk_through_all_tasks(store: TaskStore, raw: Database) -> None:
    """By an index that the server uses, and that holds those tasks alone that have a parent."""
    assert (await raw["tasks"].index_information())["children"]["sparse"]
    parent = await composed(store)
    await store.create(going_on_from(parent.id))
    plan = await raw["tasks"].find({"job.source.task": parent.id}).sort("created_at").explain()
    assert "COLLSCAN" not in str(plan["queryPlanner"]["winningPlan"])


async def test_many_tasks_are_watched_at_once(store: TaskStore) -> None:
    """Each as `get` has it, under its id; unknown ones are left out, a malformed id is refused."""
    ids = [await store.create(MUSIC), await store.create(GENERATE), (await composed(store)).id]
    assert await store.watched([*ids, UNKNOWN_ID]) == {task_id: await store.get(task_id) for task_id in ids}
    assert await store.watched([]) == {}
    with pytest.raises(InvalidInput):
        await store.watched([*ids, "x"])


async def test_an_unreadable_task_hides_no_other_that_is_watched(store: TaskStore, raw: Database) -> None:
    """One that another version wrote is left out."""
    mine, other = await store.create(MUSIC), await store.create(MUSIC)
    await raw["tasks"].update_one({"job.seed": MUSIC.seed}, {"$set": {"novelty": 1}})
    assert list(await store.watched([mine, other])) == [other]


async def test_a_task_may_come_with_an_upload(store: TaskStore, raw: Database) -> None:
    """Its worker reads it; the same request again, many times at once, keeps one file and makes one task."""
    upload = os.urandom(100_000)
    task_id = await store.create(MUSIC, upload=upload)
    assert await store.read_upload((await claimed(store, task_id)).task) == upload
    ids = await asyncio.gather(*(store.create(MUSIC, KEY, upload) for _ in range(10)))
    assert len(set(ids)) == 1
    assert await store.read_upload(await store.get(ids[0])) == upload
    assert await stored(raw) == (2, 2, 2)


async def test_a_forgotten_task_is_gone_with_all_its_files(store: TaskStore, raw: Database) -> None:
    """Upload, takes and codes; for whoever read it before, its audio is gone. Another task's files stay."""
    await composed(store)
    before = await stored(raw)
    task = await composed(store, await store.create(MUSIC, upload=b"upload"))
    await store.forget(task.id)
    assert await stored(raw) == before
    for call in (store.get(task.id), store.forget(task.id), store.cancel(task.id)):
        with pytest.raises(UnknownTask):
            await call
    with pytest.raises(RecoverableError) as caught:
        await bytes_of(store.open_take(task, 0))
    assert caught.value.code == "audio_gone"


async def test_however_it_ended_a_task_may_be_forgotten(store: TaskStore) -> None:
    """Failed, cancelled, completed the old way; one that is not over may not."""
    cancelled = await store.create(MUSIC)
    with pytest.raises(Conflict) as caught:
        await store.forget(cancelled)
    assert caught.value.code == "unfinished"
    await store.cancel(cancelled)
    failing = await claimed(store)
    with pytest.raises(Conflict):
        await store.forget(failing.task.id)
    await store.fail(failing, MediaError("no"))
    old = await encoding(store)
    await store.finish(old, b"wav")
    for task_id in (cancelled, failing.task.id, old.task.id):
        await store.forget(task_id)
        with pytest.raises(UnknownTask):
            await store.get(task_id)


async def test_what_is_gone_on_from_is_not_forgotten(store: TaskStore) -> None:
    """As long as a child is not over; children that are over do not hold it, and outlive it."""
    parent = await composed(store)
    over, waiting = await store.create(going_on_from(parent.id)), await store.create(going_on_from(parent.id))
    await composed(store, over)
    with pytest.raises(Conflict) as caught:
        await store.forget(parent.id)
    assert caught.value.code == "has_unfinished_children"
    assert await bytes_of(store.open_codes(parent, 1)) == MADE[1].codes
    await store.cancel(waiting)
    await store.forget(parent.id)
    assert (await store.get(over)).status is Status.COMPLETED


async def test_a_forgotten_task_is_not_made_again_by_its_request(store: TaskStore, raw: Database) -> None:
    """A request that comes again late was done: it makes no new task."""
    task_id = await store.create(MUSIC, KEY)
    await store.cancel(task_id)
    await store.forget(task_id)
    assert await store.create(MUSIC, KEY) == task_id
    assert await raw["tasks"].count_documents({}) == 0


async def test_forgetting_that_is_cut_off_anywhere_leaves_a_whole_task_or_garbage(
    store: TaskStore, raw: Database
) -> None:
    """A task that is still there has its files; the files of one that is not are collected at the next look."""
    there = 0

    async def is_clean() -> bool:
        await store.collect_garbage()
        return await stored(raw) == (0, 0, 0)

    for number in range(40):
        task = await composed(store)
        forgetting = asyncio.create_task(store.forget(task.id))
        await asyncio.wait({forgetting}, timeout=number * 0.0004)
        forgetting.cancel()
        await asyncio.wait({forgetting})
        await store.collect_garbage()
        if task.id in await store.watched([task.id]):
            there += 1
            assert [await bytes_of(store.open_take(task, take)) for take in (0, 1)] == [made.wav for made in MADE]
            with suppress(UnknownTask):  # its deletion was under way, on another connection
                await store.forget(task.id)
        await until(is_clean)
    assert 0 < there < 40, "some were cut off before the task was gone, and some were not"
