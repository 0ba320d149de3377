"""Audio of an attempt under way, for those who listen while it is made: chunks of samples, kept until it is over.

A chunk belongs to a take of one claim, whose fence is part of its key. Readers ask for the task's present fence alone,
so what a worker adds that has lost its task is never read, and goes in time; adding needs no look at the task, and is
one insert (1.2 ms of the embedded server for a second of mono). A chunk added twice is there once.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bson import ObjectId
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from gary.tasks.documents import Document
from gary.tasks.task import Claim

BATCH = 32  # chunks read at once


@dataclass(frozen=True)
class Voice:
    """What one listens to: a take as the claim with this fence makes it."""

    task_id: ObjectId
    fence: int
    take: int

    @property
    def key(self) -> Document:
        return {"task": self.task_id, "fence": self.fence, "take": self.take}


@dataclass(frozen=True)
class LiveChunk:
    """Samples of an answer, from `start_sample` (per channel) on.

    Attributes:
        pcm: 16-bit little-endian, channels interleaved.
    """

    start_sample: int
    pcm: bytes

    def cut(self, start_sample: int, channels: int) -> LiveChunk:
        """What lies from `start_sample` on, which is not before its own."""
        return LiveChunk(start_sample, self.pcm[2 * channels * (start_sample - self.start_sample) :])


class LiveChunks:
    """The chunks of one database.

    Args:
        ttl: a chunk goes so long after its task was claimed, if nobody drops it before.
    """

    def __init__(self, database: AsyncDatabase[dict[str, Any]], ttl: timedelta) -> None:
        self._chunks = database["live"]
        self._ttl = ttl

    async def create_indexes(self) -> None:
        parts = [("task", 1), ("fence", 1), ("take", 1), ("start_sample", 1)]
        await self._chunks.create_index(parts, name="order", unique=True)
        await self._chunks.create_index("expires_at", name="expiry", expireAfterSeconds=0)

    async def add(self, claim: Claim, take: int, chunk: LiveChunk) -> None:
        lease = claim.task.lease
        assert lease is not None, f"task {claim.task.id} was claimed without a lease"
        voice = Voice(ObjectId(claim.task.id), claim.fence, take)
        # By the claim's own time, which is the server's: to ask for it anew would be another way to the server.
        document = {"start_sample": chunk.start_sample, "pcm": chunk.pcm, "expires_at": lease.until + self._ttl}
        with suppress(DuplicateKeyError):
            await self._chunks.insert_one({**voice.key, **document})

    async def since(self, voice: Voice, start_sample: int) -> list[LiveChunk]:
        """Chunks that begin at `start_sample` or later, in order, BATCH at most."""
        later = {**voice.key, "start_sample": {"$gte": start_sample}}
        found = self._chunks.find(later, {"start_sample": 1, "pcm": 1}).sort("start_sample").limit(BATCH)
        return [_chunk(document) async for document in found]

    async def last_before(self, voice: Voice, start_sample: int) -> LiveChunk | None:
        """The last that begins before `start_sample`."""
        earlier = {**voice.key, "start_sample": {"$lt": start_sample}}
        found = await self._chunks.find(earlier).sort("start_sample", -1).limit(1).to_list()
        return _chunk(found[0]) if found else None

    async def drop(self, task_id: ObjectId, below_fence: int) -> None:
        """Deletes what was added under older fences."""
        await self._chunks.delete_many({"task": task_id, "fence": {"$lt": below_fence}})


def _chunk(document: Document) -> LiveChunk:
    return LiveChunk(document["start_sample"], bytes(document["pcm"]))
