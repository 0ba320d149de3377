"""The task store against a real server: claims, fences, restarts, audio, garbage. Each test has its own database."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from bson import ObjectId
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from gary.config import DatabaseConfig, TasksConfig
from gary.errors import (
    DatabaseUnavailable,
    DeviceError,
    FatalError,
    InvalidInput,
    LeaseLost,
    MediaError,
    RecoverableError,
    UnknownTask,
)
from gary.tasks.embedded import EmbeddedDatabase
from gary.tasks.files import CHUNK_BYTES
from gary.tasks.store import TaskStore
from gary.tasks.task import Claim, ContinueJob, GenerateJob, Status, Task

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


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedDatabase(tmp_path_factory.mktemp("database"))
    yield server.start()
    server.stop()


@pytest.fixture
def config() -> DatabaseConfig:
    return DatabaseConfig(name=f"test-{uuid4().hex[:12]}")


@asynccontextmanager
async def opened(uri: str, config: DatabaseConfig, tasks: TasksConfig | None = None) -> AsyncIterator[TaskStore]:
    store = TaskStore(uri, config, tasks or TasksConfig())
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def store(uri: str, config: DatabaseConfig) -> AsyncIterator[TaskStore]:
    async with opened(uri, config) as store:
        yield store


@pytest.fixture
async def raw(uri: str, config: DatabaseConfig) -> AsyncIterator[AsyncDatabase[dict[str, Any]]]:
    """The test's database as it is, past the store."""
    async with AsyncMongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        yield client[config.name]


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


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110  the server tells nobody when it does
            await asyncio.sleep(0.01)


async def stored(raw: AsyncDatabase[dict[str, Any]]) -> tuple[int, int, int]:
    """Files, chunks and rows of the ledger."""
    counts = [await raw[name].count_documents({}) for name in ("audio.files", "audio.chunks", "audio.ledger")]
    return counts[0], counts[1], counts[2]


async def pass_an_hour(raw: AsyncDatabase[dict[str, Any]]) -> None:
    """Makes every row of the ledger due."""
    await raw["audio.ledger"].update_many({}, {"$set": {"look_at": datetime.now(UTC) - timedelta(seconds=1)}})


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


async def test_an_unknown_id_leaves_nothing_behind(store: TaskStore, raw: AsyncDatabase[dict[str, Any]]) -> None:
    """Well-formed but unknown: UnknownTask, no claim, and no upload is kept."""
    for call in (store.get(UNKNOWN_ID), store.cancel(UNKNOWN_ID), store.restart(UNKNOWN_ID, CONTINUE, b"x")):
        with pytest.raises(UnknownTask):
            await call
    assert await store.claim(UNKNOWN_ID, "worker") is None
    assert await stored(raw) == (0, 0, 0)


async def test_exactly_one_of_many_claims_wins(uri: str, config: DatabaseConfig) -> None:
    """Two clients, forty claims at once, ten times over."""
    async with opened(uri, config) as one, opened(uri, config) as other:
        for _ in range(10):
            task_id = await one.create(GENERATE)
            claims = await asyncio.gather(*(store.claim(task_id, "w") for store in (one, other) for _ in range(20)))
            (won,) = [claim for claim in claims if claim is not None]
            task = await one.get(task_id)
            assert (task.status, task.attempts, task.fence) == (Status.FETCHING, 1, won.fence)
            assert task.lease is not None
            assert task.lease.owner == "w"


async def test_a_lost_worker_s_task_goes_to_another_and_its_writes_are_refused(
    uri: str, config: DatabaseConfig, raw: AsyncDatabase[dict[str, Any]]
) -> None:
    """A lease runs out; the next claim is the next attempt; all that the first worker writes is refused."""
    async with opened(uri, config, QUICK_LEASE) as store:
        first = await encoding(store)
        task_id = first.task.id
        await until(lambda: _is_claimable(store, task_id))
        second = await encoding(store, task_id)
        assert (second.task.attempts, second.fence) == (2, first.fence + 1)
        for write in (
            store.renew(first),
            store.advance(first, Status.ENCODING),
            store.set_progress(first, 0.9),
            store.record(first, {"bars": 1}),
            store.finish(first, b"stale"),
            store.fail(first, MediaError("no")),
            store.release(first),
        ):
            with pytest.raises(LeaseLost):
                await write
        assert await stored(raw) == (0, 0, 0)
        await store.finish(second, b"fresh")
        task = await store.get(task_id)
        assert (task.status, task.progress, task.facts, task.error) == (Status.COMPLETED, 1.0, {}, None)
        assert await audio_of(store, task) == b"fresh"


async def _is_claimable(store: TaskStore, task_id: str) -> bool:
    return task_id in await store.claimable(limit=10)


async def test_a_renewed_lease_keeps_the_task(uri: str, config: DatabaseConfig) -> None:
    """A claim that saw the old lease run out loses to the worker that renewed it in between."""
    async with opened(uri, config, QUICK_LEASE) as store, opened(uri, config) as patient:
        claim = await claimed(store)
        await until(lambda: _is_claimable(store, claim.task.id))
        await patient.renew(claim)
        assert not await _is_claimable(store, claim.task.id)
        assert await store.claim(claim.task.id, "another") is None
        await store.set_progress(claim, 0.5)
        assert (await store.get(claim.task.id)).progress == 0.5


async def test_a_claim_and_a_renewal_at_once_do_not_both_win(uri: str, config: DatabaseConfig) -> None:
    """A worker gets through to a task whose lease has run out just as others claim it: either it or one of them."""
    async with opened(uri, config, TasksConfig(lease_s=0.001)) as store, opened(uri, config) as patient:
        for _ in range(30):
            claim = await claimed(store)
            task_id = claim.task.id
            await until(partial(_is_claimable, store, task_id))
            outcomes = await asyncio.gather(
                patient.renew(claim), *(patient.claim(task_id, "other") for _ in range(5)), return_exceptions=True
            )
            renewed = not isinstance(outcomes[0], LeaseLost)
            won = [outcome for outcome in outcomes[1:] if isinstance(outcome, Claim)]
            assert len(won) + renewed == 1
            await store.cancel(task_id)


async def test_a_task_tells_what_its_worker_tells(store: TaskStore) -> None:
    """Stages, progress and facts are seen as they are written; facts add up and stay under their names."""
    claim = await claimed(store)
    await store.record(claim, {"title": "$set a.b", "tempo_bpm": 174.0})
    await store.advance(claim, Status.GENERATING)
    await store.set_progress(claim, 0.25)
    await store.record(claim, {"bars": 12})
    task = await store.get(claim.task.id)
    assert (task.status, task.progress) == (Status.GENERATING, 0.25)
    assert task.facts == {"title": "$set a.b", "tempo_bpm": 174.0, "bars": 12}
    await store.advance(claim, Status.ENCODING)
    await store.finish(claim, b"wav", {"timings_s": {"fetching": 1.5}})
    task = await store.get(claim.task.id)
    assert task.facts["timings_s"] == {"fetching": 1.5}
    assert task.facts["bars"] == 12


async def test_a_stage_cannot_be_skipped(store: TaskStore, raw: AsyncDatabase[dict[str, Any]]) -> None:
    """Encoding before generating and finishing before encoding are refused, change nothing and leave no file."""
    claim = await claimed(store)
    with pytest.raises(FatalError) as caught:
        await store.advance(claim, Status.ENCODING)
    assert caught.value.code == "illegal_transition"
    with pytest.raises(FatalError):
        await store.finish(claim, b"early")
    assert (await store.get(claim.task.id)).status is Status.FETCHING
    assert await stored(raw) == (0, 0, 0)


async def test_a_step_repeated_is_no_error(store: TaskStore) -> None:
    """A worker whose answer was lost may say the same again."""
    claim = await claimed(store)
    for _ in range(2):
        await store.advance(claim, Status.GENERATING)
    assert (await store.get(claim.task.id)).status is Status.GENERATING


async def test_a_released_task_is_tried_again_until_attempts_run_out(uri: str, config: DatabaseConfig) -> None:
    """After max_attempts the next claim fails the task, and says what the last attempt said."""
    async with opened(uri, config, TasksConfig(max_attempts=2)) as store:
        task_id = await store.create(GENERATE)
        for attempt in (1, 2):
            claim = await claimed(store, task_id)
            assert claim.task.attempts == attempt
            await store.release(claim, DeviceError("the device is gone"))
            assert await store.claimable(limit=1) == [task_id]
        assert await store.claim(task_id, "worker") is None
        task = await store.get(task_id)
        assert task.status is Status.FAILED
        assert task.error is not None
        assert task.error.code == "attempts_exhausted"
        assert "the device is gone" in task.error.message
        assert task.expires_at is not None
        assert await store.claimable(limit=1) == []


async def test_a_failure_is_told_with_code_and_sentence(store: TaskStore) -> None:
    """The error of the tree is found in the task, which is over."""
    claim = await claimed(store)
    await store.fail(claim, MediaError("this is no audio"), {"title": "x"})
    task = await store.get(claim.task.id)
    assert task.status is Status.FAILED
    assert task.error is not None
    assert (task.error.code, task.error.message) == ("not_audio", "this is no audio")
    assert task.facts == {"title": "x"}
    assert task.lease is None
    assert await store.claim(task.id, "worker") is None


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


async def test_a_restart_takes_the_task_from_its_worker(store: TaskStore, raw: AsyncDatabase[dict[str, Any]]) -> None:
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


async def test_restarts_and_a_busy_worker_do_not_lose_each_other(
    store: TaskStore, raw: AsyncDatabase[dict[str, Any]]
) -> None:
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


async def test_audio_beyond_a_document_s_16_mb_comes_back_exactly(store: TaskStore) -> None:
    """20 MB in, streamed out by chunks that are whole base64 each, the last apart."""
    audio = os.urandom(20_000_000)
    claim = await encoding(store)
    await store.finish(claim, audio)
    task = await store.get(claim.task.id)
    assert task.result is not None
    assert task.result.size_bytes == len(audio)
    size_bytes, stream = await store.open_audio(task)
    chunks = [chunk async for chunk in stream]
    assert size_bytes == len(audio)
    assert {len(chunk) for chunk in chunks[:-1]} == {CHUNK_BYTES}
    assert CHUNK_BYTES % 3 == 0
    assert b"".join(chunks) == audio


async def test_a_result_may_be_streamed_in(store: TaskStore) -> None:
    """An iterator of parts, of any size, makes the same file as its sum."""
    parts = [os.urandom(n) for n in (1, 700_000, 0, 1_500_000)]

    async def stream() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    claim = await encoding(store)
    await store.finish(claim, stream())
    task = await store.get(claim.task.id)
    assert task.result is not None
    assert task.result.size_bytes == sum(map(len, parts))
    assert await audio_of(store, task) == b"".join(parts)


async def test_garbage_is_what_no_task_refers_to(store: TaskStore, raw: AsyncDatabase[dict[str, Any]]) -> None:
    """A file of a dead writer, in mid-file even, goes after an hour and not before; files in use stay."""

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(50 * CHUNK_BYTES)
        raise DeviceError("the encoder died")

    kept = await encoding(store)
    await store.finish(kept, b"kept")
    broken_off = await encoding(store)
    with pytest.raises(DeviceError):
        await store.finish(broken_off, broken())
    files, chunks, rows = await stored(raw)
    assert (files, rows) == (1, 2)
    assert chunks > 1  # some had been written
    assert await store.collect_garbage() == 0
    await pass_an_hour(raw)
    assert await store.collect_garbage() == 1
    assert await stored(raw) == (1, 1, 1)
    assert await store.collect_garbage() == 0  # the file in use is not looked at again before its task expires
    assert await audio_of(store, await store.get(kept.task.id)) == b"kept"


async def test_finished_tasks_expire_with_their_files(
    uri: str, config: DatabaseConfig, raw: AsyncDatabase[dict[str, Any]]
) -> None:
    """The database removes them by its index, unfinished tasks never; the collection then removes their files."""
    async with opened(uri, config, TasksConfig(ttl_s=0.1)) as store:
        waiting = await store.create(GENERATE)
        done = await encoding(store)
        await store.finish(done, b"wav")
        await until(lambda: _is_forgotten(store, raw, done.task.id))
        assert (await store.get(waiting)).status is Status.QUEUED
        assert await stored(raw) == (1, 1, 1)
        await pass_an_hour(raw)
        assert await store.collect_garbage() == 1
        assert await stored(raw) == (0, 0, 0)


async def _is_forgotten(store: TaskStore, raw: AsyncDatabase[dict[str, Any]], task_id: str) -> bool:
    await raw.client.admin.command("secantusAdmin.pruneTtl")  # what the server does by itself, but each minute
    try:
        await store.get(task_id)
    except UnknownTask:
        return True
    return False


async def test_opening_twice_changes_nothing(store: TaskStore, raw: AsyncDatabase[dict[str, Any]]) -> None:
    """Indexes are made once, the expiring one among them."""
    before = await raw["tasks"].index_information()
    await store.open()
    assert await raw["tasks"].index_information() == before
    assert before["expiry"]["expireAfterSeconds"] == 0


async def test_a_task_of_another_version_is_told_apart_from_a_fault(
    store: TaskStore, raw: AsyncDatabase[dict[str, Any]]
) -> None:
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
