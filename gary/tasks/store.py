"""Tasks in MongoDB, or in anything that speaks its protocol: one implementation, of plain filters and updates.

A task completes exactly once: each write of a worker names the fence of its claim, and the database applies the write
only while the task has that fence. Claims compare and swap on the fence, so one of any number wins.

All times are the database server's (`hello` tells them), so hosts need not agree on the time: a worker whose clock is
off neither loses its lease early nor keeps it.

Chosen for the embedded server, whose planner is simple (measured at 5000 tasks): `find_one_and_update` and any filter
with `$expr` walk the whole collection (47 ms), where `update_one` by `_id` takes 1 ms. It runs without an oplog, as a
standalone, where pymongo retries reads and never writes; on a replica set pymongo retries each write once, safely.
"""

from __future__ import annotations

import logging
from asyncio import gather
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain
from operator import itemgetter
from typing import Any

from bson import ObjectId
from bson.errors import InvalidId
from pydantic import JsonValue, TypeAdapter, ValidationError
from pymongo import AsyncMongoClient

from gary.config import DatabaseConfig, TasksConfig
from gary.errors import (
    AttemptsExhausted,
    DatabaseUnavailable,
    FatalError,
    GaryError,
    InvalidInput,
    LeaseLost,
    UnknownTask,
)
from gary.tasks.boundary import database_errors, translated
from gary.tasks.files import GRACE, AudioFiles
from gary.tasks.task import (
    UNFINISHED,
    WORKING,
    AudioFile,
    Claim,
    ContinueJob,
    Facts,
    GenerateJob,
    Lease,
    Status,
    Task,
    TaskError,
    check_transition,
    sources_of,
)

_log = logging.getLogger(__name__)
_FACTS: TypeAdapter[Facts] = TypeAdapter(Facts)
_ANSWER_TIMEOUT_S = 30.0  # one answer of the server, a batch of 48 MB written before it included
_IDLE_S = 60.0  # unused connections are closed; the embedded server hangs up after 300 s
_GARBAGE_BATCH = 100  # files looked at in one round

Document = dict[str, Any]


class TaskStore:
    """The tasks and audio files of one database. Belongs to the event loop that first uses it.

    Every method raises DatabaseUnavailable where the database does not answer: in `database.timeout_s` where there is
    none to be found. What was being written then may or may not have been; each method may be called again.

    Args:
        uri: mongodb://...
    """

    def __init__(self, uri: str, database: DatabaseConfig, tasks: TasksConfig) -> None:
        with database_errors():
            self._client: AsyncMongoClient[Document] = AsyncMongoClient(
                uri,
                appname="gary",
                tz_aware=True,
                tzinfo=UTC,
                serverSelectionTimeoutMS=round(database.timeout_s * 1000),
                connectTimeoutMS=round(database.timeout_s * 1000),
                socketTimeoutMS=round(_ANSWER_TIMEOUT_S * 1000),
                maxIdleTimeMS=round(_IDLE_S * 1000),
            )
        self._tasks = self._client[database.name]["tasks"]
        self._files = AudioFiles(self._client[database.name], self._now)
        self._config = tasks

    @translated
    async def open(self) -> None:
        """Makes the indexes where they are missing. The store works without them, slowly, and forgets no task."""
        await self._tasks.create_index([("status", 1), ("queued_at", 1)], name="claimable")
        await self._tasks.create_index("expires_at", name="expiry", expireAfterSeconds=0)
        await self._files.create_indexes()

    @translated
    async def close(self) -> None:
        await self._client.close()

    @translated
    async def ping(self) -> None:
        """Raises DatabaseUnavailable unless the database answers."""
        await self._client.admin.command("ping")

    # What clients do

    @translated
    async def create(self, job: GenerateJob) -> str:
        """A new queued task; its id."""
        task_id, now = ObjectId(), await self._now()
        await self._tasks.insert_one({"_id": task_id, "created_at": now, "fence": 0, **_fresh(job, None, now)})
        return str(task_id)

    @translated
    async def get(self, task_id: str) -> Task:
        """Raises InvalidInput (code `malformed_id`), UnknownTask."""
        task = await self._find(_object_id(task_id))
        if task is None:
            raise UnknownTask(f"no task has the id {task_id}")
        return task

    @translated
    async def restart(self, task_id: str, job: ContinueJob, upload: bytes) -> None:
        """Gives a task, whatever its status, a new job and queues it; a worker still at the old job is refused.

        One atomic update: until it is applied the task is as it was. The files of the old job are then deleted.

        Raises:
            InvalidInput: (code `malformed_id`)
            UnknownTask: no such task, or it expired in this moment.
        """
        await self.get(task_id)  # an unknown id costs no upload
        object_id = ObjectId(task_id)
        file = await self._files.put(object_id, upload)
        before = await self._swap_job(object_id, job, file)
        if before is None:
            await self._files.discard([file.file_id])
            raise UnknownTask(f"no task has the id {task_id}")
        await self._discard_soon(before.file_ids)

    @translated
    async def cancel(self, task_id: str) -> Task:
        """Ends an unfinished task for good; its worker finds LeaseLost at its next write. A finished one stays.

        Returns:
            The task as it is now.

        Raises:
            InvalidInput: (code `malformed_id`)
            UnknownTask: no such task.
        """
        ended = {"status": Status.CANCELLED.value, "lease": None, "expires_at": await self._expiry()}
        await self._tasks.update_one(
            {"_id": _object_id(task_id), "status": _one_of(UNFINISHED)}, {"$set": ended, "$inc": {"fence": 1}}
        )
        return await self.get(task_id)

    async def open_audio(self, task: Task) -> tuple[int, AsyncIterator[bytes]]:
        """A completed task's audio: its size in bytes, and its bytes by chunks of a number divisible by 3.

        Raises (here, or from the iterator):
            RecoverableError: (code `audio_gone`) the task was restarted or has expired since it was read.
        """
        assert task.result is not None, f"task {task.id} is {task.status} and has no audio"
        return await self._files.open(task.result)

    # What workers do

    @translated
    async def claimable(self, limit: int) -> list[str]:
        """Ids of tasks that wait for a worker or have lost theirs, the oldest job first, `limit` at most."""
        lost = {"status": _one_of(WORKING), "lease.until": {"$lt": await self._now()}}
        found = await gather(*(self._oldest(which, limit) for which in ({"status": Status.QUEUED.value}, lost)))
        oldest = sorted(chain.from_iterable(found), key=itemgetter("queued_at"))
        return [str(document["_id"]) for document in oldest[:limit]]

    @translated
    async def claim(self, task_id: str, owner: str) -> Claim | None:
        """Takes a task to work on for a lease; None where it is not to be had, or another was faster.

        A task that was begun as often as it may be becomes failed instead, with AttemptsExhausted's code.
        """
        now = await self._now()
        task = await self._find(_object_id(task_id))
        if task is None or not task.is_claimable(now):
            return None
        if task.attempts >= self._config.max_attempts:
            await self._swap(task, _ended(Status.FAILED, await self._expiry(), error=_exhausted(task)))
            return None
        taken = task.model_copy(
            update={
                "status": Status.FETCHING,
                "attempts": task.attempts + 1,
                "fence": task.fence + 1,
                "lease": Lease(owner=owner, until=now + timedelta(seconds=self._config.lease_s)),
                "progress": 0.0,
            }
        )
        changed = taken.model_dump(include={"status", "attempts", "fence", "lease", "progress"})
        return Claim(task=taken) if await self._swap(task, changed) else None

    @translated
    async def renew(self, claim: Claim) -> None:
        """The worker is alive: its lease begins anew. Raises LeaseLost."""
        until = await self._now() + timedelta(seconds=self._config.lease_s)
        await self._write(claim, {"lease.until": until})

    @translated
    async def advance(self, claim: Claim, status: Status) -> None:
        """The next stage of the work. Raises LeaseLost; FatalError (code `illegal_transition`)."""
        assert status in WORKING - {Status.FETCHING}, f"a worker does not advance a task to {status}"
        await self._write(claim, {"status": status.value}, status)

    @translated
    async def set_progress(self, claim: Claim, fraction: float) -> None:
        """`fraction` of the work, 0 to 1, is done. Raises LeaseLost."""
        assert 0 <= fraction <= 1, f"progress is 0 to 1, not {fraction}"
        await self._write(claim, {"progress": float(fraction)})

    @translated
    async def record(self, claim: Claim, facts: Mapping[str, JsonValue]) -> None:
        """Adds to the task's facts. Raises LeaseLost."""
        await self._write(claim, _facts(facts))

    @translated
    async def read_upload(self, task: Task) -> bytes:
        """The audio that a continuation goes on from.

        Raises:
            RecoverableError: (code `audio_gone`) the task was restarted since it was read.
        """
        assert task.upload is not None, f"task {task.id} has no upload"
        _, chunks = await self._files.open(task.upload)
        return b"".join([chunk async for chunk in chunks])

    @translated
    async def finish(
        self, claim: Claim, wav: bytes | AsyncIterator[bytes], facts: Mapping[str, JsonValue] | None = None
    ) -> None:
        """The result, stored first and then given to the task: completed. Keep renewing the lease meanwhile.

        Raises:
            LeaseLost: the task is another's by now; the result is deleted again.
            FatalError: (code `illegal_transition`) the task is not being encoded; likewise.
        """
        file = await self._files.put(ObjectId(claim.task.id), wav)
        ended = _ended(Status.COMPLETED, await self._expiry(), result=file.model_dump(), progress=1.0)
        try:
            await self._write(claim, {**ended, **_facts(facts)}, Status.COMPLETED)
        except (LeaseLost, FatalError):
            await self._files.discard([file.file_id])
            raise

    @translated
    async def fail(self, claim: Claim, error: GaryError, facts: Mapping[str, JsonValue] | None = None) -> None:
        """Ends the task as failed. Raises LeaseLost."""
        ended = _ended(Status.FAILED, await self._expiry(), error=TaskError.of(error).model_dump())
        await self._write(claim, {**ended, **_facts(facts)}, Status.FAILED)

    @translated
    async def release(self, claim: Claim, reason: GaryError | None = None) -> None:
        """Back into the queue at its old place, for another attempt at once. Raises LeaseLost.

        Args:
            reason: why this attempt failed; told in the end, should no attempt succeed.
        """
        setback = TaskError.of(reason).model_dump() if reason is not None else None
        await self._write(claim, {"status": Status.QUEUED.value, "lease": None, "setback": setback}, Status.QUEUED)

    @translated
    async def collect_garbage(self) -> int:
        """Deletes files that no task refers to: of expired tasks, of workers that died. Cheap when nothing is due.

        Expired tasks themselves are removed by the database (a TTL index, looked at about once a minute). Files follow
        within GRACE. Looks at a bounded number of files a call.

        Returns:
            How many files were deleted.
        """
        now = await self._now()
        deleted = 0
        for row in await self._files.due(now, _GARBAGE_BATCH):
            # Not read as a Task: one that another version wrote must not stop the rest.
            task = await self._tasks.find_one({"_id": row.task_id}, {"upload": 1, "result": 1, "expires_at": 1})
            if task is None or str(row.file_id) not in _file_ids(task):
                await self._files.discard([row.file_id])
                deleted += 1
            else:
                await self._files.look_later(row, max(now, task["expires_at"] or now) + GRACE)
        return deleted

    # Within

    async def _now(self) -> datetime:
        """The database server's clock, by milliseconds."""
        answer = await self._client.admin.command("hello", codec_options=self._client.codec_options)
        now: datetime = answer["localTime"]
        return now

    async def _expiry(self) -> datetime:
        return await self._now() + timedelta(seconds=self._config.ttl_s)

    async def _find(self, object_id: ObjectId) -> Task | None:
        document = await self._tasks.find_one({"_id": object_id})
        return None if document is None else _task(document)

    async def _oldest(self, which: Document, limit: int) -> list[Document]:
        return await self._tasks.find(which, {"queued_at": 1}).sort("queued_at").limit(limit).to_list()

    async def _swap(self, before: Task, fields: Document) -> bool:
        """Writes `fields` if the task still is as it was read; whether it was."""
        standing = {
            "_id": ObjectId(before.id),
            "fence": before.fence,
            "status": before.status.value,
            "lease.until": before.lease.until if before.lease else None,  # a lease renewed since then is alive
        }
        written = await self._tasks.update_one(standing, {"$set": fields})
        return written.matched_count == 1

    async def _swap_job(self, object_id: ObjectId, job: ContinueJob, upload: AudioFile) -> Task | None:
        """Queues a task anew; the task as it was just before, None where there is none."""
        while (before := await self._find(object_id)) is not None:
            fields = {**_fresh(job, upload, await self._now()), "fence": before.fence + 1}
            if await self._swap(before, fields):
                return before
            # Its worker wrote in between. Next time around, or the one after, it has nothing left to write.
        return None

    async def _write(self, claim: Claim, fields: Document, status: Status | None = None) -> None:
        """Writes on behalf of a worker, in one update that the database refuses to a stale claim.

        Args:
            status: the one that the task gets, where it gets another.
        """
        legal = WORKING if status is None else WORKING & sources_of(status)
        mine = {"_id": ObjectId(claim.task.id), "fence": claim.fence, "status": _one_of(legal)}
        written = await self._tasks.update_one(mine, {"$set": fields})
        if written.matched_count:
            return
        task = await self._find(ObjectId(claim.task.id))
        if task is None or task.fence != claim.fence or task.status not in WORKING:
            raise LeaseLost(f"task {claim.task.id} is no longer this worker's")
        check_transition(task.status, status or task.status)

    async def _discard_soon(self, file_ids: Iterable[str]) -> None:
        """What is not deleted now is left to `collect_garbage`: the task no longer refers to it."""
        try:
            with database_errors():
                await self._files.discard(file_ids)
        except DatabaseUnavailable as error:
            _log.warning("files left to the garbage collection: %s", error)


def _object_id(task_id: str) -> ObjectId:
    try:
        return ObjectId(task_id)
    except InvalidId as error:
        raise InvalidInput(f"{task_id[:80]!r} is no task id: 24 hexadecimal digits are", "malformed_id") from error


def _task(document: Document) -> Task:
    fields = {name: value for name, value in document.items() if name != "_id"}
    try:
        return Task.model_validate({"id": str(document["_id"]), **fields})
    except ValidationError as error:
        raise FatalError(
            f"task {document['_id']} was written by a version of the service that this one cannot read", "task_shape"
        ) from error


def _fresh(job: GenerateJob | ContinueJob, upload: AudioFile | None, now: datetime) -> Document:
    """All fields of a task that has just been queued, but those that a restart keeps or counts on."""
    task = Task(id="0" * 24, status=Status.QUEUED, job=job, upload=upload, created_at=now, queued_at=now)
    return task.model_dump(exclude={"id", "created_at", "fence"})


def _ended(status: Status, expires_at: datetime, **fields: Any) -> Document:
    return {"status": status.value, "lease": None, "expires_at": expires_at, **fields}


def _exhausted(task: Task) -> Document:
    last = f": {task.setback.message}" if task.setback is not None else ""
    return TaskError.of(AttemptsExhausted(f"given up after {task.attempts} attempts{last}")).model_dump()


def _facts(facts: Mapping[str, JsonValue] | None) -> Document:
    """An update that adds facts one by one; their names are checked, for a dot would reach elsewhere."""
    return {f"facts.{name}": value for name, value in _FACTS.validate_python(dict(facts or {})).items()}


def _file_ids(document: Document) -> set[str]:
    return {file["file_id"] for file in (document["upload"], document["result"]) if file is not None}


def _one_of(statuses: Iterable[Status]) -> Document:
    return {"$in": sorted(status.value for status in statuses)}
