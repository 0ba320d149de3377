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
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from operator import itemgetter

from bson import ObjectId
from pydantic import JsonValue
from pymongo import AsyncMongoClient
from pymongo.errors import DuplicateKeyError

from gary.config import DatabaseConfig, Limits, TasksConfig
from gary.errors import (
    DatabaseUnavailable,
    FatalError,
    GaryError,
    IdempotencyMismatch,
    LeaseLost,
    QueueFull,
    UnknownTask,
)
from gary.tasks.boundary import database_errors, translated
from gary.tasks.documents import Document, facts_update, file_ids_of, finished, fresh, object_id, one_of, task_of
from gary.tasks.files import AudioFiles
from gary.tasks.idempotency import Use, Uses
from gary.tasks.queue import Queue, backoff_s
from gary.tasks.task import (
    UNFINISHED,
    WORKING,
    AudioFile,
    Claim,
    ContinueJob,
    GenerateJob,
    Idempotency,
    Lease,
    QueueState,
    RequestMark,
    Status,
    Task,
    TaskError,
    check_transition,
    sources_of,
)

_log = logging.getLogger(__name__)
_ANSWER_TIMEOUT_S = 30.0  # one answer of the server, a batch of 48 MB written before it included
_IDLE_S = 60.0  # unused connections are closed; the embedded server hangs up after 300 s
_GARBAGE_BATCH = 100  # files looked at in one round
_UNFINISHED_TASKS = Limits().unfinished_tasks


class TaskStore:
    """The tasks and audio files of one database. Belongs to the event loop that first uses it.

    Every method raises DatabaseUnavailable where the database does not answer: in `database.timeout_s` where there is
    none to be found. What was being written then may or may not have been; each method may be called again.

    Args:
        uri: mongodb://...
        unfinished_tasks: as many may wait or be worked on; one more is refused.
    """

    def __init__(
        self, uri: str, database: DatabaseConfig, tasks: TasksConfig, unfinished_tasks: int = _UNFINISHED_TASKS
    ) -> None:
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
        self._files = AudioFiles(self._client[database.name], self._now, timedelta(seconds=tasks.file_grace_s))
        self._uses = Uses(self._client[database.name], self._now, min(tasks.idempotency_ttl_s, tasks.ttl_s))
        self._queue = Queue(self._tasks, self._now, unfinished_tasks, database.timeout_s)
        self._config = tasks

    @translated
    async def open(self) -> None:
        """Makes the indexes where they are missing. The store works without them, slowly, and forgets no task."""
        await self._tasks.create_index("expires_at", name="expiry", expireAfterSeconds=0)
        for part in (self._queue, self._uses, self._files):
            await part.create_indexes()

    @translated
    async def close(self) -> None:
        await self._client.close()

    @translated
    async def ping(self) -> None:
        """Raises DatabaseUnavailable unless the database answers."""
        await self._client.admin.command("ping")

    # What clients do

    @translated
    async def create(self, job: GenerateJob, idempotency: Idempotency | None = None) -> str:
        """A new queued task; its id. The same idempotency again: the same id, and nothing else happens.

        Raises:
            QueueFull: as many tasks are unfinished as may be. What was done before is answered all the same.
            IdempotencyMismatch: the key was used for another request.
        """
        if idempotency is None:
            task_id = ObjectId()
            async with self._queue.place():
                await self._insert(task_id, job, None)
            return str(task_id)
        known = await self.replayed(idempotency)
        if known is not None:
            return known
        try:
            async with self._queue.place():
                use = await self._uses.reserve(idempotency, ObjectId())
                with suppress(DuplicateKeyError):  # the same request beside us was faster
                    await self._insert(use.task_id, job, use.mark)
            return str(use.task_id)
        except QueueFull:
            known = await self.replayed(idempotency)  # ... and may have had the last place
            if known is None:
                raise
            return known

    @translated
    async def replayed(self, idempotency: Idempotency) -> str | None:
        """The id of the task that this very request was answered with before; None where it is new.

        Raises:
            IdempotencyMismatch: the key was used for another request.
        """
        use = await self._uses.find(idempotency)
        if use is None:
            return None
        done = await self._uses.is_done(use.mark, await self._find(use.task_id))
        return str(use.task_id) if done else None

    @translated
    async def queue(self) -> QueueState:
        """How many tasks wait and are worked on, for how long, and how fast they finish."""
        return await self._queue.state()

    @translated
    async def get(self, task_id: str) -> Task:
        """Raises InvalidInput (code `malformed_id`), UnknownTask."""
        task = await self._find(object_id(task_id))
        if task is None:
            raise UnknownTask(f"no task has the id {task_id}")
        return task

    @translated
    async def restart(
        self, task_id: str, job: ContinueJob, upload: bytes, idempotency: Idempotency | None = None
    ) -> None:
        """Gives a task, whatever its status, a new job and queues it; a worker still at the old job is refused.

        One atomic update: until it is applied the task is as it was. The files of the old job are then deleted.
        The same idempotency again does nothing, even if the task has had another job since.

        Raises:
            InvalidInput: (code `malformed_id`)
            UnknownTask: no such task, or it expired in this moment.
            QueueFull: the task is finished, and as many others are unfinished as may be.
            IdempotencyMismatch: the key was used for another request.
        """
        task = await self.get(task_id)  # an unknown id costs no upload
        if idempotency is not None and await self.replayed(idempotency) == task_id:
            return
        if task.status not in UNFINISHED:
            await self._queue.check()
        use = await self._uses.reserve(idempotency, ObjectId(task_id)) if idempotency is not None else None
        if use is not None and use.task_id != ObjectId(task_id):
            raise IdempotencyMismatch("this idempotency key was used before, for another task; choose a new one")
        file = await self._files.put(ObjectId(task_id), upload)
        try:
            async with nullcontext() if task.status in UNFINISHED else self._queue.place():
                no_longer_needed = await self._swap_job(ObjectId(task_id), job, file, use)
        except (QueueFull, UnknownTask):
            await self._discard_soon([file.file_id])
            raise
        await self._discard_soon(no_longer_needed)

    @translated
    async def cancel(self, task_id: str) -> Task:
        """Ends an unfinished task for good; its worker finds LeaseLost at its next write. A finished one stays.

        Returns:
            The task as it is now.

        Raises:
            InvalidInput: (code `malformed_id`)
            UnknownTask: no such task.
        """
        expires_at = await self._now() + timedelta(seconds=self._config.ttl_s)
        ended = {"status": Status.CANCELLED.value, "lease": None, "expires_at": expires_at}
        await self._tasks.update_one(
            {"_id": object_id(task_id), "status": one_of(UNFINISHED)}, {"$set": ended, "$inc": {"fence": 1}}
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
        """Ids of tasks that may begin or have lost their worker, the oldest job first, `limit` at most."""
        now = await self._now()
        waiting = {"status": Status.QUEUED.value, "not_before": {"$not": {"$gt": now}}}
        lost = {"status": one_of(WORKING), "lease.until": {"$lt": now}}
        found = await gather(*(self._oldest(which, limit) for which in (waiting, lost)))
        oldest = sorted(chain.from_iterable(found), key=itemgetter("queued_at"))
        return [str(document["_id"]) for document in oldest[:limit]]

    @translated
    async def claim(self, task_id: str, owner: str) -> Claim | None:
        """Takes a task to work on for a lease; None where it is not to be had, or another was faster.

        A task that was begun as often as it may be becomes failed instead: for the latest setback, or with
        AttemptsExhausted's code where none is known.
        """
        now = await self._now()
        task = await self._find(object_id(task_id))
        if task is None or not task.is_claimable(now):
            return None
        if task.attempts >= self._config.max_attempts:
            await self._swap(task, await self._failed(TaskError.given_up(task.attempts, task.setback)))
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
    async def held(self, owner: str) -> dict[str, int]:
        """The tasks that `owner` works on as the database sees it: the fence of each, by id. One cheap query.

        What an owner has claimed and does not find here was cancelled, restarted or taken over.
        """
        mine = self._tasks.find({"status": one_of(WORKING), "lease.owner": owner}, {"fence": 1})
        return {str(document["_id"]): document["fence"] async for document in mine}

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
        await self._write(claim, facts_update(facts))

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
        ended = await self._finished(Status.COMPLETED, result=file.model_dump(), progress=1.0)
        try:
            await self._write(claim, {**ended, **facts_update(facts)}, Status.COMPLETED)
        except (LeaseLost, FatalError):
            await self._files.discard([file.file_id])
            raise

    @translated
    async def fail(self, claim: Claim, error: GaryError, facts: Mapping[str, JsonValue] | None = None) -> None:
        """Ends the task as failed. Raises LeaseLost."""
        ended = await self._failed(TaskError.of(error))
        await self._write(claim, {**ended, **facts_update(facts)}, Status.FAILED)

    @translated
    async def release(self, claim: Claim, reason: GaryError) -> float | None:
        """Back into the queue for another attempt, or failed where this was the last. Raises LeaseLost.

        Args:
            reason: why this attempt failed; told in the end, should no attempt succeed.

        Returns:
            Seconds from now until the next attempt may begin; None where there is none.
        """
        attempts, setback = claim.task.attempts, TaskError.of(reason)
        if attempts >= self._config.max_attempts:
            await self._write(claim, await self._failed(TaskError.given_up(attempts, setback)), Status.FAILED)
            return None
        wait_s = backoff_s(attempts, self._config)
        not_before = await self._now() + timedelta(seconds=wait_s)
        fields = {"lease": None, "setback": setback.model_dump(), "not_before": not_before}
        await self._write(claim, {"status": Status.QUEUED.value, **fields}, Status.QUEUED)
        return wait_s

    @translated
    async def collect_garbage(self) -> int:
        """Deletes files that no task refers to: of expired tasks, of workers that died. Cheap when nothing is due.

        Expired tasks themselves are removed by the database (a TTL index, looked at about once a minute). Files follow
        within `file_grace_s`. Looks at a bounded number of files a call.

        Returns:
            How many files were deleted.
        """
        now = await self._now()
        deleted = 0
        for row in await self._files.due(now, _GARBAGE_BATCH):
            # Not read as a Task: one that another version wrote must not stop the rest.
            task = await self._tasks.find_one({"_id": row.task_id}, {"upload": 1, "result": 1, "expires_at": 1})
            if task is None or str(row.file_id) not in file_ids_of(task):
                await self._files.discard([row.file_id])
                deleted += 1
            else:
                await self._files.look_later(row, max(now, task["expires_at"] or now))
        return deleted

    # Within

    async def _now(self) -> datetime:
        """The database server's clock, by milliseconds."""
        answer = await self._client.admin.command("hello", codec_options=self._client.codec_options)
        now: datetime = answer["localTime"]
        return now

    async def _finished(self, status: Status, **fields: object) -> Document:
        now = await self._now()
        return finished(status, now, now + timedelta(seconds=self._config.ttl_s), **fields)

    async def _failed(self, error: TaskError) -> Document:
        return await self._finished(Status.FAILED, error=error.model_dump())

    async def _insert(self, task_id: ObjectId, job: GenerateJob, request: RequestMark | None) -> None:
        now = await self._now()
        await self._tasks.insert_one(
            {"_id": task_id, "created_at": now, "fence": 0, **fresh(job, now, request=request)}
        )

    async def _find(self, task_id: ObjectId) -> Task | None:
        document = await self._tasks.find_one({"_id": task_id})
        return None if document is None else task_of(document)

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

    async def _swap_job(
        self, task_id: ObjectId, job: ContinueJob, upload: AudioFile, use: Use | None
    ) -> tuple[str, ...]:
        """Queues a task anew, unless the use was that already; the files that nobody needs any more.

        Raises UnknownTask: there is none.
        """
        mark = use.mark if use is not None else None
        while (before := await self._find(task_id)) is not None:
            if mark is not None and await self._uses.is_done(mark, before):
                return (upload.file_id,)
            if before.request is not None:
                await self._uses.settle(before.request)
            fields = {**fresh(job, await self._now(), upload, mark), "fence": before.fence + 1}
            if await self._swap(before, fields):
                return before.file_ids
            # Its worker wrote in between. Next time around, or the one after, it has nothing left to write.
        raise UnknownTask(f"no task has the id {task_id}")

    async def _write(self, claim: Claim, fields: Document, status: Status | None = None) -> None:
        """Writes on behalf of a worker, in one update that the database refuses to a stale claim.

        Args:
            status: the one that the task gets, where it gets another.
        """
        legal = WORKING if status is None else WORKING & sources_of(status)
        mine = {"_id": ObjectId(claim.task.id), "fence": claim.fence, "status": one_of(legal)}
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
