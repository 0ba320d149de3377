"""Audio in GridFS, beyond the 16 MB of a document, and the ledger that keeps any of it from being orphaned.

Every file has a row in the ledger from before its first chunk until after its last. The row says whose file it is and
when somebody should next see whether that task still refers to it; a writer that dies anywhere, in mid-file even,
leaves a row behind that leads to what must be cleared.

pymongo reads the files; we write them ourselves, in GridFS's format. Its writer looks before every file whether its
collections are empty, and the embedded server answers that by reading all audio there is: 0.3 to 0.7 s a file with
250 MB in store, and as much of the server's memory, where the file itself took 0.03 s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bson import Int64, ObjectId
from gridfs import AsyncGridFSBucket
from gridfs.asynchronous.grid_file import AsyncGridOut
from gridfs.errors import NoFile
from pymongo.asynchronous.database import AsyncDatabase

from gary.tasks.boundary import database_errors
from gary.tasks.music import AudioFile
from gary.tasks.witness import Witness

# 1020 KiB: divisible by 3, so that a whole chunk is whole base64. Each chunk costs the embedded server an fsync: 100 MB
# went in within 1.0 s (1.7 s by GridFS's own 255 KiB) and came out in 0.2 s.
CHUNK_BYTES = 4 * 255 * 1024
_CHUNKS_AT_ONCE = 32


@dataclass(frozen=True)
class Row:
    """A line of the ledger: `file_id` was stored for `task_id`."""

    file_id: ObjectId
    task_id: ObjectId


class AudioFiles:
    """The files of one database.

    Args:
        now: the database server's clock.
        grace: an upload takes seconds; after so long it has been given to a task or never will be.
    """

    def __init__(
        self,
        database: AsyncDatabase[dict[str, Any]],
        now: Callable[[], Awaitable[datetime]],
        grace: timedelta,
        witness: Witness,
    ) -> None:
        self._bucket = AsyncGridFSBucket(database, "audio")
        self._files = database["audio.files"]
        self._chunks = database["audio.chunks"]
        self._ledger = database["audio.ledger"]
        self._now = now
        self._grace = grace
        self._witness = witness

    async def create_indexes(self) -> None:
        """The ledger's, and GridFS's own.

        The embedded server that finds no room while it makes a collection keeps its name and never again its table: so
        all are made at the start, while there is room.
        """
        await self._ledger.create_index("look_at", name="look_at")
        await self._files.create_index([("filename", 1), ("uploadDate", 1)])
        await self._chunks.create_index([("files_id", 1), ("n", 1)], unique=True)

    async def put(self, task_id: ObjectId, data: bytes | AsyncIterator[bytes]) -> AudioFile:
        """Stores `data`. A file that no task refers to after `grace`, whole or broken off, is to be cleared away."""
        file_id, now = ObjectId(), await self._now()
        await self._ledger.insert_one({"_id": file_id, "task_id": task_id, "look_at": now + self._grace})
        size_bytes = await self._put_chunks(file_id, data)  # where this fails, the ledger leads to what is there
        await self._files.insert_one(
            {
                "_id": file_id,
                "filename": str(file_id),
                "length": Int64(size_bytes),
                "chunkSize": CHUNK_BYTES,
                "uploadDate": now,
                "metadata": {"task_id": task_id},
            }
        )
        self._witness.stored(size_bytes)
        return AudioFile(file_id=str(file_id), size_bytes=size_bytes)

    async def open(self, file: AudioFile, start_byte: int = 0) -> tuple[int, AsyncIterator[bytes]]:
        """Its size in bytes, and its chunks from `start_byte` on: of CHUNK_BYTES each, where that is 0, but the last.

        Raises (here, or from the iterator): RecoverableError (`audio_gone`), DatabaseUnavailable.
        """
        with database_errors():
            stream = await self._bucket.open_download_stream(ObjectId(file.file_id))
            await stream.seek(start_byte)
        return int(stream.length), _chunks_of(stream)

    async def read(self, file: AudioFile) -> bytes:
        """All of it. Raises RecoverableError (`audio_gone`), DatabaseUnavailable."""
        _, chunks = await self.open(file)
        return b"".join([chunk async for chunk in chunks])

    async def discard(self, file_ids: Iterable[str | ObjectId]) -> None:
        """Clears files away with every chunk; those already gone are no error."""
        for file_id in map(ObjectId, file_ids):
            with suppress(NoFile):  # raised after the chunks are gone, where a writer died before the end
                await self._bucket.delete(file_id)
            await self._ledger.delete_one({"_id": file_id})

    async def due(self, now: datetime, limit: int) -> list[Row]:
        """Files whose task should be looked at, longest due first."""
        rows = self._ledger.find({"look_at": {"$lte": now}}).sort("look_at").limit(limit)
        return [Row(row["_id"], row["task_id"]) async for row in rows]

    async def look_now(self, file_ids: Iterable[str]) -> None:
        """Their task is about to go: whatever is not cleared away with it is found at the next look."""
        now = await self._now()
        for file_id in map(ObjectId, file_ids):
            await self._ledger.update_one({"_id": file_id}, {"$set": {"look_at": now}})

    async def look_later(self, row: Row, then: datetime) -> None:
        """After `then`, and the grace."""
        await self._ledger.update_one({"_id": row.file_id}, {"$set": {"look_at": then + self._grace}})

    async def _put_chunks(self, file_id: ObjectId, data: bytes | AsyncIterator[bytes]) -> int:
        """Returns their size in bytes."""
        size_bytes, waiting = 0, []
        async for number, chunk in _numbered(data):
            size_bytes += len(chunk)
            waiting.append({"files_id": file_id, "n": number, "data": chunk})
            if len(waiting) == _CHUNKS_AT_ONCE:
                await self._chunks.insert_many(waiting)
                waiting = []
        if waiting:
            await self._chunks.insert_many(waiting)
        return size_bytes


async def _numbered(data: bytes | AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """Chunks of CHUNK_BYTES, all but the last, with their numbers from 0 on."""
    number, rest = 0, b""
    async for part in _parts(data):
        rest = rest + part if rest else part
        start = 0
        while len(rest) - start >= CHUNK_BYTES:
            yield number, rest[start : start + CHUNK_BYTES]
            number, start = number + 1, start + CHUNK_BYTES
        rest = rest[start:]
    if rest:
        yield number, rest


async def _parts(data: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    async for part in data:
        yield part


async def _chunks_of(stream: AsyncGridOut) -> AsyncIterator[bytes]:
    with database_errors():
        try:
            while chunk := await stream.readchunk():
                yield chunk
        finally:
            await stream.close()
