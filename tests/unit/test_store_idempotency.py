"""Requests with an idempotency key: repeated, at once, after a crash, in a full house, they are done once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from bson import ObjectId

from gary.config import DatabaseConfig, TasksConfig
from gary.errors import IdempotencyMismatch, QueueFull
from gary.tasks.store import TaskStore
from gary.tasks.task import Idempotency, Status
from tests.unit.storing import CONTINUE, GENERATE, Database, claimed, encoding, opened, stored, until

KEY = Idempotency.of("", "key", "generate")
OTHER_REQUEST = Idempotency.of("", "key", "generate something else")
RESTART = Idempotency.of("", "key of a restart", "continue")


def test_a_key_is_its_holder_s_alone_and_is_kept_as_a_hash() -> None:
    """Equal keys of two holders differ, however name and key are cut; nothing of either can be read in it."""
    assert Idempotency.of("ann", "key", "x").key_sha256 != Idempotency.of("bob", "key", "x").key_sha256
    assert Idempotency.of("a", "bc", "x").key_sha256 != Idempotency.of("ab", "c", "x").key_sha256
    assert Idempotency.of("a", "k", "x") == Idempotency.of("a", "k", "x")
    shown = Idempotency.of("holder", "secret", "request").model_dump_json()
    assert not any(word in shown for word in ("holder", "secret", '"request"'))


async def test_a_repeated_creation_is_answered_with_the_same_task(store: TaskStore, raw: Database) -> None:
    """Whatever has become of the task meanwhile; another request under the key is refused, another key is new."""
    assert await store.replayed(KEY) is None
    task_id = await store.create(GENERATE, KEY)
    assert await store.create(GENERATE, KEY) == task_id
    assert await store.replayed(KEY) == task_id
    claim = await encoding(store, task_id)
    await store.finish(claim, b"wav")
    await store.restart(task_id, CONTINUE, b"upload")
    assert await store.create(GENERATE, KEY) == task_id
    assert (await store.get(task_id)).job == CONTINUE
    for call in (store.create(GENERATE, OTHER_REQUEST), store.replayed(OTHER_REQUEST)):
        with pytest.raises(IdempotencyMismatch):
            await call
    assert await store.create(GENERATE, Idempotency.of("", "another key", "generate")) != task_id
    assert await raw["tasks"].count_documents({}) == 2


async def test_the_same_creation_from_many_sides_makes_one_task(
    uri: str, config: DatabaseConfig, raw: Database
) -> None:
    """Two clients, forty calls at once, into a house that has room for one."""
    async with opened(uri, config, unfinished_tasks=1) as one, opened(uri, config, unfinished_tasks=1) as other:
        ids = await asyncio.gather(*(store.create(GENERATE, KEY) for store in (one, other) for _ in range(20)))
        assert len(set(ids)) == 1
        assert await raw["tasks"].count_documents({}) == 1
        with pytest.raises(QueueFull):
            await one.create(GENERATE)
        assert await one.create(GENERATE, KEY) == ids[0]


async def test_a_refused_request_may_come_again_under_its_key(uri: str, config: DatabaseConfig) -> None:
    """A full house is no answer to keep: once there is room, the same key is served."""
    async with opened(uri, config, unfinished_tasks=1) as store:
        done = await encoding(store)
        await store.finish(done, b"wav")
        waiting = await store.create(GENERATE)
        with pytest.raises(QueueFull):
            await store.create(GENERATE, KEY)
        with pytest.raises(QueueFull):
            await store.restart(done.task.id, CONTINUE, b"upload", RESTART)
        assert await store.replayed(RESTART) is None
        await store.cancel(waiting)
        await store.restart(done.task.id, CONTINUE, b"upload", RESTART)
        await store.cancel(done.task.id)
        assert await store.create(GENERATE, KEY) != waiting


async def test_a_repeated_restart_restarts_once(store: TaskStore, raw: Database) -> None:
    """Not while its job is worked on, not when it is done, not when the task has had another job since."""
    task_id = await store.create(GENERATE, KEY)
    await store.restart(task_id, CONTINUE, b"upload", RESTART)
    claim = await claimed(store, task_id)
    await store.restart(task_id, CONTINUE, b"again", RESTART)
    await store.renew(claim)
    assert await store.read_upload(claim.task) == b"upload"
    later = CONTINUE.model_copy(update={"seed": 9})
    await store.restart(task_id, later, b"later upload")
    await store.restart(task_id, CONTINUE, b"again", RESTART)
    task = await store.get(task_id)
    assert (task.job, task.fence) == (later, claim.fence + 1)
    assert await store.replayed(RESTART) == task_id
    assert await stored(raw) == (1, 1, 1)


async def test_a_key_restarts_no_second_task(store: TaskStore) -> None:
    """The same words for another task are another request."""
    first, second = await store.create(GENERATE), await store.create(GENERATE)
    await store.restart(first, CONTINUE, b"upload", RESTART)
    with pytest.raises(IdempotencyMismatch):
        await store.restart(second, CONTINUE, b"upload", RESTART)
    assert (await store.get(second)).job == GENERATE


async def test_the_same_restart_from_many_sides_restarts_once(uri: str, config: DatabaseConfig, raw: Database) -> None:
    """Two clients, twenty calls at once, and restarts with other keys among them: each is done once."""
    async with opened(uri, config) as one, opened(uri, config) as other:
        task_id = await one.create(GENERATE)
        keys = [RESTART, Idempotency.of("", "second", "continue"), Idempotency.of("", "third", "continue")]
        calls = [(store, key) for store in (one, other) for _ in range(4) for key in keys]
        await asyncio.gather(*(store.restart(task_id, CONTINUE, b"upload", key) for store, key in calls))
        assert (await one.get(task_id)).fence == len(keys)
        assert await stored(raw) == (1, 1, 1)


async def test_a_call_that_is_cut_off_anywhere_is_done_once_when_it_comes_again(
    store: TaskStore, raw: Database
) -> None:
    """Cut off at forty points between the first and the last write, then repeated: one task, one restart."""
    kept = 0
    for number in range(40):
        after_s = number * 0.0005
        create, restart = (Idempotency.of("", f"{what} {number}", what) for what in ("create", "restart"))
        await _cut_off(store.create(GENERATE, create), after_s)
        task_id = await store.create(GENERATE, create)
        assert await raw["tasks"].count_documents({}) == number + 1
        await _cut_off(store.restart(task_id, CONTINUE, b"upload", restart), after_s)
        kept += (await store.get(task_id)).fence
        await store.restart(task_id, CONTINUE, b"upload", restart)
        assert (await store.get(task_id)).fence == 1
    assert 0 < kept < 40, "some were cut off before the restart, and some were not"


async def _cut_off(call: Coroutine[Any, Any, object], after_s: float) -> None:
    task = asyncio.create_task(call)
    await asyncio.wait({task}, timeout=after_s)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled() or task.exception() is None


async def test_a_key_whose_task_was_never_made_makes_it(store: TaskStore, raw: Database) -> None:
    """A crash between the two writes of a creation: when the request comes again, the task gets the id chosen first."""
    task_id = await store.create(GENERATE, KEY)
    await raw["tasks"].delete_one({"_id": ObjectId(task_id)})
    assert await store.replayed(KEY) is None
    assert await store.create(GENERATE, KEY) == task_id
    assert (await store.get(task_id)).status is Status.QUEUED


async def test_a_key_is_forgotten_in_time_and_then_new(uri: str, config: DatabaseConfig, raw: Database) -> None:
    """Under its old key the same request is then another one, restarts included; the database clears the records."""
    async with opened(uri, config, TasksConfig(idempotency_ttl_s=0.05)) as store:
        task_id = await store.create(GENERATE, KEY)
        await until(lambda: _is_new(store, KEY))
        assert await store.create(GENERATE, KEY) != task_id
        await store.restart(task_id, CONTINUE, b"upload", RESTART)
        await until(lambda: _is_new(store, RESTART))
        await store.restart(task_id, CONTINUE, b"upload", RESTART)
        assert (await store.get(task_id)).fence == 2
        await until(lambda: _no_records(raw))


async def _is_new(store: TaskStore, idempotency: Idempotency) -> bool:
    return await store.replayed(idempotency) is None


async def _no_records(raw: Database) -> bool:
    await raw.client.admin.command("secantusAdmin.pruneTtl")  # what the server does by itself, but each minute
    return await raw["idempotency"].count_documents({}) == 0
