"""Which request an idempotency key was used for, and which task it was answered with.

A key's record is written before what was asked is done, and names the task beforehand; a task carries the mark of the
request that gave it its present job, written with that job in one update. So a crash between any two writes leaves
one of: no record, a record whose task does not know it (the request is done when it comes again), or both.

Before a task's mark is written over by a later request, its record is settled: it alone then knows that it was done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from gary.errors import IdempotencyMismatch
from gary.tasks.documents import Document
from gary.tasks.task import Idempotency, RequestMark, Task


@dataclass(frozen=True)
class Use:
    """A key in use.

    Attributes:
        task_id: what it is answered with.
    """

    mark: RequestMark
    task_id: ObjectId


class Uses:
    """The keys of one database.

    Args:
        now: the database server's clock.
        ttl_s: a key is forgotten after so long. No longer than finished tasks are kept: a key that outlived its task
            would be taken for one whose task was never made.
    """

    def __init__(
        self, database: AsyncDatabase[dict[str, Any]], now: Callable[[], Awaitable[datetime]], ttl_s: float
    ) -> None:
        self._records = database["idempotency"]
        self._now = now
        self._ttl = timedelta(seconds=ttl_s)

    async def create_indexes(self) -> None:
        await self._records.create_index("expires_at", name="expiry", expireAfterSeconds=0)

    async def find(self, idempotency: Idempotency) -> Use | None:
        """The key's use; None where it is new or forgotten. Raises IdempotencyMismatch."""
        record = await self._records.find_one({"_id": idempotency.key_sha256})
        if record is None or record["expires_at"] < await self._now():
            return None
        if record["request_sha256"] != idempotency.request_sha256:
            raise IdempotencyMismatch("this idempotency key was used before, for another request; choose a new one")
        return _use(record)

    async def reserve(self, idempotency: Idempotency, task_id: ObjectId) -> Use:
        """The key's use: a new one with `task_id`, or the one that stands. Raises IdempotencyMismatch."""
        while (standing := await self.find(idempotency)) is None:
            now = await self._now()
            await self._records.delete_one({"_id": idempotency.key_sha256, "expires_at": {"$lt": now}})
            record = {
                "_id": idempotency.key_sha256,
                "request_sha256": idempotency.request_sha256,
                "use": ObjectId(),
                "task_id": task_id,
                "settled": False,
                "expires_at": now + self._ttl,
            }
            try:
                await self._records.insert_one(record)
            except DuplicateKeyError:  # the same request beside us was faster: next time around its use is found
                continue
            return _use(record)
        return standing

    async def is_done(self, mark: RequestMark, task: Task | None) -> bool:
        """Whether what was asked has been done; `task`, the one it is about, was read before this call."""
        if task is not None and task.request == mark:
            return True
        found = await self._records.find_one({**_key(mark), "settled": True}, {"_id": 1})
        return found is not None

    async def settle(self, mark: RequestMark) -> None:
        """The task that carries `mark` is about to get another."""
        await self._records.update_one(_key(mark), {"$set": {"settled": True}})


def _use(record: Document) -> Use:
    mark = RequestMark(key_sha256=record["_id"], use=str(record["use"]))
    return Use(mark, record["task_id"])


def _key(mark: RequestMark) -> Document:
    return {"_id": mark.key_sha256, "use": ObjectId(mark.use)}
