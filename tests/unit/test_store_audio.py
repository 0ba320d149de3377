"""Audio in the task store, and what becomes of files that no task refers to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from gridfs import AsyncGridFSBucket
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from gary.config import DatabaseConfig, TasksConfig
from gary.errors import (
    DeviceError,
    UnknownTask,
)
from gary.tasks.files import CHUNK_BYTES, AudioFiles
from gary.tasks.store import TaskStore
from gary.tasks.task import Status
from gary.tasks.witness import Nobody
from tests.unit.storing import (
    GENERATE,
    Database,
    audio_of,
    encoding,
    opened,
    pass_an_hour,
    stored,
    until,
)


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


async def test_garbage_is_what_no_task_refers_to(store: TaskStore, raw: Database) -> None:
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


async def test_finished_tasks_expire_with_their_files(uri: str, config: DatabaseConfig, raw: Database) -> None:
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


async def test_a_file_costs_the_same_however_many_there_are(uri: str, config: DatabaseConfig) -> None:
    """Whatever is asked of the audio names the file. The embedded server answers anything wider by reading all."""
    heard = _Questions()
    async with AsyncMongoClient[dict[str, Any]](uri, event_listeners=[heard]) as client:
        files = AudioFiles(client[config.name], _now, timedelta(hours=1), Nobody())
        file = await files.put(ObjectId(), os.urandom(2 * CHUNK_BYTES))
        await files.read(file)
        await files.discard([file.file_id])
    assert {name for name, _ in heard.asked} == {"find", "delete"}
    assert [question for name, question in heard.asked if not question.keys() & {"_id", "files_id"}] == []


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK_BYTES, 33 * CHUNK_BYTES + 1])
async def test_files_are_gridfs(uri: str, config: DatabaseConfig, size_bytes: int) -> None:
    """What we write, pymongo's own reader reads, from its name on; sizes about a chunk and about a batch of them."""
    audio = os.urandom(size_bytes)
    async with AsyncMongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        files = AudioFiles(client[config.name], _now, timedelta(hours=1), Nobody())
        file = await files.put(ObjectId(), audio)
        stream = await AsyncGridFSBucket(client[config.name], "audio").open_download_stream_by_name(file.file_id)
        assert await stream.read() == audio
        assert (stream.length, file.size_bytes) == (size_bytes, size_bytes)
        assert abs(stream.upload_date - await _now()) < timedelta(minutes=1)
        chunks = await client[config.name]["audio.chunks"].find().sort("n").to_list()
        sizes = [len(chunk["data"]) for chunk in chunks]
        whole, rest = divmod(size_bytes, CHUNK_BYTES)
        assert [chunk["n"] for chunk in chunks] == list(range(len(chunks)))
        assert sizes == [CHUNK_BYTES] * whole + [rest] * (rest > 0)


class _Questions(CommandListener):
    """What a client asks of which documents: (command, filter)."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def started(self, event: CommandStartedEvent) -> None:
        match event.command_name:
            case "insert" | "hello" | "endSessions":
                pass
            case "delete" | "update" as name:
                self.asked += [(name, each["q"]) for each in event.command[f"{name}s"]]
            case name:
                self.asked.append((name, event.command.get("filter", {})))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


async def _now() -> datetime:
    return datetime.now(UTC)


async def _is_forgotten(store: TaskStore, raw: Database, task_id: str) -> bool:
    await raw.client.admin.command("secantusAdmin.pruneTtl")  # what the server does by itself, but each minute
    try:
        await store.get(task_id)
    except UnknownTask:
        return True
    return False
