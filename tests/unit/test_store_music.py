"""Music jobs in the task store: what is told while they are made, and what is kept of them."""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise

import pytest
from bson import ObjectId

from gary.config import DatabaseConfig, TasksConfig
from gary.errors import DeviceError, FatalError, InvalidInput, LeaseLost, MediaError
from gary.tasks.files import CHUNK_BYTES
from gary.tasks.store import MadeTake, TaskStore
from gary.tasks.task import Status, Task
from tests.unit.storing import (
    CONTINUE,
    GENERATE,
    MADE,
    MUSIC,
    QUICK_LEASE,
    RECEIPT,
    SHEET,
    Database,
    bytes_of,
    claimed,
    composed,
    composing,
    encoding,
    is_claimable,
    opened,
    pass_an_hour,
    stored,
    until,
)


async def test_a_music_job_leaves_its_takes_with_their_codes_and_a_receipt(store: TaskStore, raw: Database) -> None:
    """Two files a take, each as it was handed in, with the hash of the WAV; the first take is the result as well."""
    task = await composed(store)
    assert (task.status, task.job, task.receipt, task.sheet) == (Status.COMPLETED, MUSIC, RECEIPT, SHEET)
    assert task.result == task.takes[0].wav
    for number, (made, take) in enumerate(zip(MADE, task.takes, strict=True)):
        assert (take.seed, take.duration_s) == (made.seed, made.duration_s)
        assert take.wav_sha256 == hashlib.sha256(made.wav).hexdigest()
        assert await bytes_of(store.open_take(task, number)) == made.wav
        assert await bytes_of(store.open_codes(task, number)) == made.codes
        assert await store.read_file(take.codes) == made.codes
    assert (await stored(raw))[0] == 4


async def test_a_file_may_be_read_from_any_byte_on(store: TaskStore) -> None:
    """Before, at and after a chunk's border, and at the end; the size told is the whole file's."""
    audio = os.urandom(2 * CHUNK_BYTES + 5)
    claim = await composing(store)
    await store.advance(claim, Status.ENCODING)
    await store.finish_music(claim, [MadeTake(7, audio, b"", 1.0)], RECEIPT)
    task = await store.get(claim.task.id)
    for start in (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, len(audio) - 1, len(audio)):
        size_bytes, chunks = await store.open_take(task, 0, start)
        assert size_bytes == len(audio)
        assert b"".join([chunk async for chunk in chunks]) == audio[start:]


async def test_a_take_that_was_not_made_is_the_client_s_fault(store: TaskStore) -> None:
    """Beyond the last, before the first, and the codes of a job of the old kinds, which kept none; its take is one."""
    old = await encoding(store)
    await store.finish(old, b"wav")
    task, legacy = await composed(store), await store.get(old.task.id)
    calls = (store.open_take(task, 2), store.open_take(task, -1), store.open_codes(task, 2))
    for call in (*calls, store.open_take(legacy, 1), store.open_codes(legacy, 0)):
        with pytest.raises(InvalidInput) as caught:
            await call
        assert caught.value.code == "unknown_take"
    assert await bytes_of(store.open_take(legacy, 0)) == b"wav"


async def test_what_is_made_and_how_far_it_is_can_be_read(store: TaskStore) -> None:
    """Sheet and frames as the worker told them; a completed task has all frames and no time left."""
    claim = await composing(store)
    await store.set_progress(claim, 0.25, 250, 1000, eta_s=3.5)
    task = await store.get(claim.task.id)
    assert (task.status, task.sheet) == (Status.GENERATING, SHEET)
    assert (task.progress, task.frames_done, task.frames_total, task.eta_s) == (0.25, 250, 1000, 3.5)
    await store.advance(claim, Status.ENCODING)
    await store.finish_music(claim, MADE, RECEIPT, {"title": "x"})
    task = await store.get(claim.task.id)
    assert (task.progress, task.frames_done, task.frames_total, task.eta_s) == (1.0, 1000, 1000, None)
    assert task.facts == {"title": "x"}


async def test_another_attempt_has_told_nothing_yet(uri: str, config: DatabaseConfig) -> None:
    """Progress and sheet are an attempt's own: gone with the next claim, and progress with a new beginning."""
    async with opened(uri, config, TasksConfig(backoff_s=0)) as store:
        claim = await composing(store)
        await store.set_progress(claim, 0.5, 5, 10, eta_s=1.0)
        await store.begin_music(claim, SHEET)
        assert _told(await store.get(claim.task.id)) == (0.0, 0, 0, None)
        await store.set_progress(claim, 0.5, 5, 10, eta_s=1.0)
        await store.release(claim, DeviceError("gone"))
        await until(lambda: is_claimable(store, claim.task.id))
        again = await claimed(store, claim.task.id)
        task = await store.get(claim.task.id)
        assert (_told(task), task.sheet) == ((0.0, 0, 0, None), None)
        assert again.task == task


def _told(task: Task) -> tuple[float, int, int, float | None]:
    return task.progress, task.frames_done, task.frames_total, task.eta_s


async def test_a_stale_worker_s_music_is_refused_and_leaves_nothing(
    uri: str, config: DatabaseConfig, raw: Database
) -> None:
    """After another's claim neither sheet nor takes get in; music that is not being encoded is refused likewise."""
    async with opened(uri, config, QUICK_LEASE) as store:
        first = await composing(store)
        await until(lambda: is_claimable(store, first.task.id))
        second = await claimed(store, first.task.id)
        for write in (store.begin_music(first, SHEET), store.finish_music(first, MADE, RECEIPT)):
            with pytest.raises(LeaseLost):
                await write
        with pytest.raises(FatalError) as caught:
            await store.finish_music(second, MADE, RECEIPT)
        assert caught.value.code == "illegal_transition"
        assert await stored(raw) == (0, 0, 0)
        assert (await store.get(first.task.id)).sheet is None


async def test_the_takes_files_are_no_garbage_while_their_task_is_there(store: TaskStore, raw: Database) -> None:
    """An hour later they are looked at and stay; without the task they go, all of them."""
    task = await composed(store)
    await pass_an_hour(raw)
    assert await store.collect_garbage() == 0
    assert await bytes_of(store.open_codes(task, 1)) == MADE[1].codes
    await raw["tasks"].delete_one({"_id": ObjectId(task.id)})
    await pass_an_hour(raw)
    assert await store.collect_garbage() == 4
    assert await stored(raw) == (0, 0, 0)


async def test_every_change_of_status_is_a_step(uri: str, config: DatabaseConfig) -> None:
    """However a task gets there: in order, counted from 1 without a gap, restarts included, and by the server's time.

    What is said twice is one step.
    """
    async with opened(uri, config, TasksConfig(backoff_s=0, lease_s=0.2, max_attempts=2)) as store:
        claim = await composing(store)
        task_id = claim.task.id
        await store.begin_music(claim, SHEET)
        await store.release(claim, DeviceError("gone"))
        await until(lambda: is_claimable(store, task_id))
        await claimed(store, task_id)
        await until(lambda: is_claimable(store, task_id))  # its worker is lost
        assert await store.claim(task_id, "another") is None  # given up
        await store.restart(task_id, CONTINUE, b"upload")
        await store.fail(await encoding(store, task_id), MediaError("no"))
        await store.restart(task_id, CONTINUE, b"upload")
        await store.cancel(task_id)
        await store.restart(task_id, CONTINUE, b"upload")
        await store.finish(await encoding(store, task_id), b"wav")
        task = await store.get(task_id)
    first = ["queued", "fetching", "generating", "queued", "fetching", "failed"]
    second = ["queued", "fetching", "generating", "encoding", "failed", "queued", "cancelled"]
    third = ["queued", "fetching", "generating", "encoding", "completed"]
    assert [step.status for step in task.steps] == first + second + third
    assert [step.seq for step in task.steps] == list(range(1, 19))
    assert all(one.at <= other.at for one, other in pairwise(task.steps))
    assert task.steps[0].at == task.created_at
    assert task.steps[-1].at == task.finished_at


async def test_a_task_of_the_version_before_lives_on(store: TaskStore, raw: Database) -> None:
    """Without a field of those that came later it is read, worked on, restarted and collected as ever."""
    later = ("steps", "frames_done", "frames_total", "eta_s", "sheet", "takes", "receipt")
    claim = await encoding(store, await store.create(GENERATE))
    await store.finish(claim, b"wav")
    task_id = ObjectId(claim.task.id)
    await raw["tasks"].update_one({"_id": task_id}, {"$unset": dict.fromkeys(later, "")})
    old = await store.get(claim.task.id)
    assert (old.steps, old.takes, old.seq) == ((), (), 0)
    await pass_an_hour(raw)
    assert await store.collect_garbage() == 0
    await store.restart(old.id, CONTINUE, b"upload")
    await raw["tasks"].update_one({"_id": task_id}, {"$unset": dict.fromkeys(later, "")})
    await store.finish(await encoding(store, old.id), b"another")
    task = await store.get(old.id)
    assert [step.seq for step in task.steps] == [1, 2, 3, 4]
    assert await store.watched([old.id]) == {old.id: task}
