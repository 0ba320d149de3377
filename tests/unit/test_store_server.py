"""The task store and its server: absent, killed, full, of another version."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import BulkWriteError, OperationFailure, WriteError

from gary.config import DatabaseConfig, TasksConfig
from gary.errors import (
    DatabaseUnavailable,
    FatalError,
)
from gary.tasks.boundary import database_errors
from gary.tasks.embedded import EmbeddedDatabase
from gary.tasks.store import TaskStore
from gary.tasks.task import Idempotency, Status, Task
from tests.unit.storing import (
    GENERATE,
    MUSIC,
    WAV,
    Database,
    audio_of,
    claimed,
    composed,
    encoding,
    opened,
    until,
)


async def test_opening_twice_changes_nothing(store: TaskStore, raw: Database) -> None:
    """Indexes are made once, the expiring one among them."""
    before = await raw["tasks"].index_information()
    await store.open()
    assert await raw["tasks"].index_information() == before
    assert before["expiry"]["expireAfterSeconds"] == 0


async def test_a_task_of_another_version_is_told_apart_from_a_fault(store: TaskStore, raw: Database) -> None:
    """A document that this version cannot read is a FatalError with a code, not a validation error."""
    task_id = await store.create(GENERATE)
    await raw["tasks"].update_one({"_id": ObjectId(task_id)}, {"$set": {"novelty": 1}})
    with pytest.raises(FatalError) as caught:
        await store.get(task_id)
    assert caught.value.code == "task_shape"


async def test_no_server_is_told_within_the_time_given() -> None:
    """Nobody listens: each call ends with DatabaseUnavailable soon after timeout_s."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"mongodb://127.0.0.1:{probe.getsockname()[1]}/"
        store = TaskStore(uri, DatabaseConfig(timeout_s=0.3), TasksConfig())
        for call in (store.ping(), store.create(GENERATE), store.claimable(limit=1)):
            began_s = monotonic()
            with pytest.raises(DatabaseUnavailable):
                await call
            assert monotonic() - began_s < 3
        await store.close()


def test_a_malformed_uri_is_refused_at_once() -> None:
    """What is no MongoDB URI is a FatalError when the store is made."""
    with pytest.raises(FatalError):
        TaskStore("http://example.org", DatabaseConfig(), TasksConfig())


async def test_a_server_that_hangs_keeps_no_client_waiting(tmp_path: Path) -> None:
    """Stopped, with its connections open: every call that a client waits for ends with DatabaseUnavailable in the time
    given, many at once too. Once it goes on, each of them has its own answer.
    """
    server = EmbeddedDatabase(tmp_path)
    uri = await asyncio.to_thread(server.start)
    assert server.pid is not None
    try:
        async with opened(uri, DatabaseConfig(timeout_s=0.5)) as store:
            ids = [await store.create(MUSIC) for _ in range(20)]
            done = await composed(store, await store.create(MUSIC))
            await asyncio.gather(*map(store.get, ids))  # as many connections
            os.kill(server.pid, signal.SIGSTOP)
            await until(partial(_is_stopped, server.pid))
            for _ in range(2):  # on connections that are open, and then on those that replaced them
                began_s = monotonic()
                outcomes = await asyncio.gather(*_clients_calls(store, ids, done), return_exceptions=True)
                assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailable}
                assert monotonic() - began_s < 3
            os.kill(server.pid, signal.SIGCONT)
            await until(partial(_each_has_its_own, store, ids * 3))
            assert await store.children(ids[0]) == ()
            assert await audio_of(store, done) == WAV
    finally:
        os.kill(server.pid, signal.SIGCONT)
        await asyncio.to_thread(server.stop)


async def _each_has_its_own(store: TaskStore, ids: list[str]) -> bool:
    """Asked for at once. False while so many connections anew take longer than the time given."""
    try:
        tasks = await asyncio.gather(*map(store.get, ids))
    except DatabaseUnavailable:
        return False
    assert [task.id for task in tasks] == ids
    return True


async def _is_stopped(pid: int) -> bool:
    """All threads: those that run at the time of the signal go on for a moment (proc(5), the state in `stat`)."""
    paths = Path(f"/proc/{pid}/task").glob("*/stat")  # noqa: ASYNC240  files of the kernel's
    stats = [path.read_text() for path in paths]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def _clients_calls(store: TaskStore, ids: list[str], done: Task) -> list[Coroutine[Any, Any, object]]:
    return [
        store.ping(),
        store.create(MUSIC),
        store.create(MUSIC, Idempotency.of("", "key", "create")),
        store.replayed(Idempotency.of("", "another key", "create")),
        *map(store.get, ids),
        store.watched(ids),
        store.children(ids[0]),
        store.queue(),
        store.place(done.model_copy(update={"status": Status.QUEUED})),
        store.live(ids[0], 1, 0, 0),
        store.cancel(ids[0]),
        store.forget(done.id),
        store.open_audio(done),
        store.open_take(done, 0),
        store.open_codes(done, 0),
    ]


async def test_a_server_s_death_is_told_and_its_return_is_found(tmp_path: Path) -> None:
    """SIGKILL in mid-service: DatabaseUnavailable; the server started again on its port serves the same store object.

    What was acknowledged before the SIGKILL is all there, audio included.
    """
    server = EmbeddedDatabase(tmp_path)
    uri = await asyncio.to_thread(server.start)
    audio = os.urandom(3_000_000)
    try:
        async with opened(uri, DatabaseConfig(timeout_s=1)) as store:
            done = await encoding(store)
            await store.finish(done, audio)
            last = await store.create(GENERATE)
            pid = server.pid
            assert pid is not None
            os.kill(pid, 9)
            with pytest.raises(DatabaseUnavailable):
                await store.create(GENERATE)
            await asyncio.to_thread(server.stop)
            assert await asyncio.to_thread(server.start) == uri
            assert (await store.get(last)).status is Status.QUEUED
            assert await audio_of(store, await store.get(done.task.id)) == audio
            claim = await claimed(store, last)
            assert claim.task.attempts == 1
    finally:
        await asyncio.to_thread(server.stop)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WriteError("no room", 14031), "disk_full"),
        (BulkWriteError({"writeErrors": [{"index": 0, "code": 14031, "errmsg": "no room"}]}), "disk_full"),
        (OperationFailure("internal server error", 1), "database_unavailable"),
    ],
    ids=["one write", "many writes", "the embedded server"],
)
def test_a_full_disk_of_the_database_may_pass(error: OperationFailure, code: str) -> None:
    """Out of disk is no refusal: what could not be written may be later, and MongoDB's number for it has our code."""
    with pytest.raises(DatabaseUnavailable) as caught, database_errors():
        raise error
    assert caught.value.code == code
    assert caught.value.__cause__ is error


def test_a_refusal_stays_a_refusal() -> None:
    """Any other number is not tried again."""
    with pytest.raises(FatalError), database_errors():
        raise OperationFailure("not authorised", 13)


async def test_a_database_without_room_says_so_and_loses_nothing(tmp_path: Path) -> None:
    """From the first write that does not fit it is unavailable and unhealthy; opened again, it has all that it took."""
    server = EmbeddedDatabase(tmp_path)
    uri = await asyncio.to_thread(server.start)
    try:
        assert server.pid is not None
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (4_000_000, resource.RLIM_INFINITY))
        async with opened(uri, DatabaseConfig(timeout_s=1)) as store:
            taken = [await store.create(GENERATE) for _ in range(20)]
            working = await encoding(store, taken[0])
            with pytest.raises(DatabaseUnavailable):
                await store.finish(working, os.urandom(8_000_000))
            with pytest.raises(DatabaseUnavailable):
                await store.create(GENERATE)
            with pytest.raises(DatabaseUnavailable):
                await asyncio.to_thread(server.check_health)
            await asyncio.to_thread(server.stop)
            assert await asyncio.to_thread(server.start) == uri
            await asyncio.to_thread(server.check_health)
            assert [(await store.get(task_id)).id for task_id in taken] == taken
            await store.finish(working, b"wav")
            assert await audio_of(store, await store.get(taken[0])) == b"wav"
    finally:
        await asyncio.to_thread(server.stop)
