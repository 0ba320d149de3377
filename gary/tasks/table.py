"""The tasks of one database, each a document: read, compared and swapped, and never walked through.

A task completes exactly once: each write of a worker names the fence of its claim, and the database applies the write
only while the task has that fence. Claims compare and swap on the fence, so one of any number wins.

Every change of status is recorded in the same update (`Task.steps`). The record is made from the task as it was read,
which is safe because a status is swapped against that reading: within one fence a task never returns to a status.

Chosen for the embedded server, whose planner is simple (measured at 5000 tasks): `find_one_and_update` and any filter
with `$expr` walk the whole collection (47 ms), where `update_one` by `_id` takes 1 ms. It runs without an oplog, as a
standalone, where pymongo retries reads and never writes; on a replica set pymongo retries each write once, safely.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Iterable
from datetime import datetime
from itertools import chain
from operator import itemgetter

from bson import ObjectId
from pymongo.asynchronous.collection import AsyncCollection

from gary.errors import FatalError, LeaseLost
from gary.tasks.documents import FILE_FIELDS, Document, fresh, one_of, stepped, task_of
from gary.tasks.music import AudioFile
from gary.tasks.task import UNFINISHED, WORKING, AnyJob, Claim, RequestMark, Status, Task, check_transition
from gary.tasks.witness import Change, Witness

_PARENT = "job.source.task"


class Table:
    """Times are told by the caller, who has them from the database server's clock."""

    def __init__(self, tasks: AsyncCollection[Document], witness: Witness) -> None:
        self._tasks = tasks
        self._witness = witness

    async def create_indexes(self) -> None:
        await self._tasks.create_index("expires_at", name="expiry", expireAfterSeconds=0)
        # Sparse, not partial: the embedded server makes no use of one that says $exists (60 ms at 5000 tasks, not 0.4).
        await self._tasks.create_index(_PARENT, name="children", sparse=True)

    # Reading

    async def find(self, task_id: ObjectId) -> Task | None:
        document = await self._tasks.find_one({"_id": task_id})
        return None if document is None else task_of(document)

    async def find_all(self, task_ids: Iterable[ObjectId]) -> dict[str, Task]:
        """By id; one query. Those that are unknown, or that another version of the service wrote, are left out."""
        found = {}
        async for document in self._tasks.find({"_id": {"$in": list(task_ids)}}):
            try:
                found[str(document["_id"])] = task_of(document)
            except FatalError:  # whoever asks for that one alone is told so
                continue
        return found

    async def files_of(self, task_id: ObjectId) -> Document | None:
        """The fields that `file_ids_of` looks at and `expires_at`; not read as a Task, which it need not be."""
        return await self._tasks.find_one({"_id": task_id}, dict.fromkeys((*FILE_FIELDS, "expires_at"), 1))

    async def children(self, parent_id: ObjectId, limit: int) -> tuple[str, ...]:
        """Ids of the tasks that go on from it, oldest first."""
        found = self._tasks.find({_PARENT: str(parent_id)}, {"_id": 1}).sort("created_at").limit(limit)
        return tuple([str(document["_id"]) async for document in found])

    async def has_unfinished_child(self, parent_id: ObjectId) -> bool:
        found = await self._tasks.find_one({_PARENT: str(parent_id), "status": one_of(UNFINISHED)}, {"_id": 1})
        return found is not None

    async def claimable(self, now: datetime, limit: int) -> list[str]:
        """Ids of tasks that may begin or have lost their worker, the oldest job first, `limit` at most."""
        waiting = {"status": Status.QUEUED.value, "not_before": {"$not": {"$gt": now}}}
        lost = {"status": one_of(WORKING), "lease.until": {"$lt": now}}
        found = await gather(*(self._oldest(which, limit) for which in (waiting, lost)))
        oldest = sorted(chain.from_iterable(found), key=itemgetter("queued_at"))
        return [str(document["_id"]) for document in oldest[:limit]]

    async def held(self, owner: str) -> dict[str, int]:
        """The fence of each task that `owner` works on, by id."""
        mine = self._tasks.find({"status": one_of(WORKING), "lease.owner": owner}, {"fence": 1})
        return {str(document["_id"]): document["fence"] async for document in mine}

    # Writing

    async def insert(
        self, task_id: ObjectId, job: AnyJob, now: datetime, upload: AudioFile | None, request: RequestMark | None
    ) -> None:
        """A new queued task. Raises DuplicateKeyError: there is one with this id."""
        await self._tasks.insert_one({"_id": task_id, **fresh(job, now, upload, request)})
        self._witness.created()

    async def swap(self, before: Task, status: Status, now: datetime, fields: Document) -> bool:
        """A step, if the task still is as it was read; whether it was."""
        standing = {
            "_id": ObjectId(before.id),
            "fence": before.fence,
            "status": before.status.value,
            "lease.until": before.lease.until if before.lease else None,  # a lease renewed since then is alive
        }
        written = await self._tasks.update_one(standing, {"$set": {**fields, **stepped(before, status, now)}})
        if not written.matched_count:
            return False
        self._witness.changed(Change(before, status, now, _code(fields)))
        return True

    async def delete(self, task: Task) -> bool:
        """Deletes a finished task, if it still is as it was read; whether it was."""
        standing = {"_id": ObjectId(task.id), "fence": task.fence, "status": task.status.value}
        return (await self._tasks.delete_one(standing)).deleted_count == 1

    async def write(self, claim: Claim, fields: Document) -> None:
        """Writes on behalf of a worker, in one update that the database refuses to a stale claim. Raises LeaseLost."""
        mine = {"_id": ObjectId(claim.task.id), "fence": claim.fence, "status": one_of(WORKING)}
        written = await self._tasks.update_one(mine, {"$set": fields})
        if not written.matched_count:
            raise _lost(claim)

    async def step(self, claim: Claim, status: Status, now: datetime, fields: Document) -> None:
        """A worker's step to `status`, with `fields` beside it, in one update that is refused to a stale claim.

        Raises:
            LeaseLost: the task is another's by now, or over.
            FatalError: (code `illegal_transition`) it cannot become `status` from where it is.
        """
        task = await self.find(ObjectId(claim.task.id))
        if task is None or task.fence != claim.fence or task.status not in WORKING:
            raise _lost(claim)
        check_transition(task.status, status)
        mine = {"_id": ObjectId(task.id), "fence": claim.fence, "status": task.status.value}
        written = await self._tasks.update_one(mine, {"$set": {**fields, **stepped(task, status, now)}})
        if not written.matched_count:  # nobody else changes the status within this fence
            raise _lost(claim)
        if task.status is not status:
            self._witness.changed(Change(task, status, now, _code(fields)))

    async def _oldest(self, which: Document, limit: int) -> list[Document]:
        return await self._tasks.find(which, {"queued_at": 1}).sort("queued_at").limit(limit).to_list()


def _code(fields: Document) -> str | None:
    """Of the error that an update tells, be it the last or a setback."""
    told = fields.get("error") or fields.get("setback")
    return told["code"] if told else None


def _lost(claim: Claim) -> LeaseLost:
    return LeaseLost(f"task {claim.task.id} is no longer this worker's")
