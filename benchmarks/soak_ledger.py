"""What was accepted, what became of it, and how large the database is: read from the database, past the service.

A job counts from the moment that its task's id was answered. It ends completed, failed with a reason, or cancelled. One
that has not ended when all is quiet again is lost, and so is one that the database knows no more before it ended. One
key that two ids were answered to is doubled.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

from bson import ObjectId
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

_LOOK_S = 1.0
_ENDS = frozenset({"completed", "failed", "cancelled"})
# The embedded server looks for what has expired about once a minute, the conductors for files every few seconds.
_LATE = timedelta(seconds=130)

Documents = AsyncDatabase[dict[str, Any]]


@dataclass
class Ledger:
    """The jobs of one run.

    Attributes:
        ends: how many ended how.
        failures: the codes of those that failed.
        late: jobs begun more than once, by what then became of them.
        gone: ids of tasks that vanished before they ended.
    """

    accepted: int = 0
    doubled: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    gone: list[str] = field(default_factory=list)
    _ids: dict[str, str] = field(default_factory=dict)  # by idempotency key
    _open: dict[str, str] = field(default_factory=dict)

    def accept(self, key: str, task_id: str) -> None:
        """An id was answered to the request with `key`; it may have been before."""
        if key in self._ids:
            self.doubled += self._ids[key] != task_id
            return
        self.accepted += 1
        self._ids[key] = self._open[key] = task_id

    @property
    def unfinished(self) -> int:
        return len(self._open)

    @property
    def lost(self) -> int:
        return len(self._open) + len(self.gone)

    async def look(self, database: Documents) -> None:
        """Closes what has ended. Only what was open before the question: its job is at least that old."""
        asked = dict(self._open)
        ids = [ObjectId(task_id) for task_id in asked.values()]
        found = {
            str(task["_id"]): task
            async for task in database["tasks"].find(
                {"_id": {"$in": ids}}, {"status": 1, "error.code": 1, "attempts": 1}
            )
        }
        for key, task_id in asked.items():
            task = found.get(task_id)
            if task is None:
                self.gone.append(self._open.pop(key))
            elif task["status"] in _ENDS:
                del self._open[key]
                self._close(task)

    def _close(self, task: dict[str, Any]) -> None:
        self.ends[task["status"]] += 1
        if task["status"] == "failed":
            self.failures[task["error"]["code"]] += 1
        if task["attempts"] > 1:
            self.late[task["status"]] += 1


@dataclass(frozen=True)
class Size:
    """The database at one moment.

    Attributes:
        at_s: since the load began.
        chunks: of audio, 1 MB each at most.
        ended: jobs that had ended by then.
    """

    at_s: float
    tasks: int
    files: int
    chunks: int
    keys: int
    disk_mb: float
    ended: int


class Auditor:
    """Keeps a ledger true, and notes the database's size now and then.

    Args:
        data: the database's directory.
    """

    def __init__(self, uri: str, data: Path, size_every_s: float) -> None:
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            uri, serverSelectionTimeoutMS=2000, socketTimeoutMS=5000, tz_aware=True
        )
        self._database = self._client["gary"]
        self._data = data
        self._size_every_s = size_every_s
        self._began_s = monotonic()
        self.ledger = Ledger()
        self.sizes: list[Size] = []

    async def __aenter__(self) -> Auditor:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def follow(self) -> None:
        """Without end. Where the database is away, the next look finds what this one did not: it expires later."""
        while True:
            try:
                await self.ledger.look(self._database)
                if not self.sizes or monotonic() - self._began_s - self.sizes[-1].at_s >= self._size_every_s:
                    self.sizes.append(await self.size())
            except PyMongoError:
                pass
            await asyncio.sleep(_LOOK_S)

    async def size(self) -> Size:
        names = ("tasks", "audio.files", "audio.chunks", "idempotency")
        tasks, files, chunks, keys = [await self._database[name].count_documents({}) for name in names]
        at_s = monotonic() - self._began_s
        return Size(at_s, tasks, files, chunks, keys, _disk_mb(self._data), self.ledger.ends.total())

    async def overdue(self) -> int:
        """Documents that should be gone: tasks, keys and files past their time, and files that nobody looks after."""
        now = (await self._client.admin.command("hello"))["localTime"]
        expired = {"$lt": now.replace(tzinfo=None) - _LATE}
        counts = [
            await self._database["tasks"].count_documents({"expires_at": expired}),
            await self._database["idempotency"].count_documents({"expires_at": expired}),
            await self._database["audio.ledger"].count_documents({"look_at": expired}),
        ]
        files = {row["_id"] async for row in self._database["audio.files"].find({}, {"_id": 1})}
        files |= {row["files_id"] async for row in self._database["audio.chunks"].find({}, {"files_id": 1})}
        known = {row["_id"] async for row in self._database["audio.ledger"].find({}, {"_id": 1})}
        return sum(counts) + len(files - known)


def _disk_mb(directory: Path) -> float:
    size_bytes = 0
    for path in directory.rglob("*"):
        try:
            size_bytes += path.stat().st_blocks * 512
        except FileNotFoundError:  # journals come and go
            continue
    return size_bytes / 1e6
