"""What clients do with the task store: ask for music, look, listen, cancel, forget.

Whoever waits for an answer has one in about `database.timeout_s`, be it DatabaseUnavailable: each method is bounded as
a whole. Those that take an upload are not; a large one over a slow line may take longer than that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import nullcontext, suppress
from datetime import timedelta

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from gary.errors import Conflict, IdempotencyMismatch, InvalidInput, QueueFull, UnknownTask
from gary.tasks.boundary import translated
from gary.tasks.documents import object_id, requeued
from gary.tasks.idempotency import Use
from gary.tasks.live import LiveChunk, Voice
from gary.tasks.music import AudioFile
from gary.tasks.side import Side, answered
from gary.tasks.task import UNFINISHED, AnyJob, ContinueJob, Idempotency, Place, QueueState, RequestMark, Status, Task

CHILDREN_MAX = 100


class ClientSide(Side):
    """The store as clients use it."""

    # Asking for music

    async def create(self, job: AnyJob, idempotency: Idempotency | None = None, upload: bytes | None = None) -> str:
        """A new queued task; its id. The same idempotency again: the same id, and nothing else happens.

        Raises:
            QueueFull: as many tasks are unfinished as may be. What was done before is answered all the same.
            IdempotencyMismatch: the key was used for another request.
        """
        if upload is None:
            return await self._create_small(job, idempotency)
        return await self._create(job, idempotency, upload)

    @answered
    async def replayed(self, idempotency: Idempotency) -> str | None:
        """The id of the task that this very request was answered with before; None where it is new.

        Raises:
            IdempotencyMismatch: the key was used for another request.
        """
        use = await self._uses.find(idempotency)
        if use is None:
            return None
        done = await self._uses.is_done(use.mark, await self._table.find(use.task_id))
        return str(use.task_id) if done else None

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

    # Looking

    @answered
    async def get(self, task_id: str) -> Task:
        """Raises InvalidInput (code `malformed_id`), UnknownTask."""
        task = await self._table.find(object_id(task_id))
        if task is None:
            raise UnknownTask(f"no task has the id {task_id}")
        return task

    @answered
    async def watched(self, task_ids: Iterable[str]) -> dict[str, Task]:
        """Many tasks by one query, each under its id. Unknown ones, and those of another version, are left out.

        Raises:
            InvalidInput: (code `malformed_id`)
        """
        return await self._table.find_all([object_id(task_id) for task_id in task_ids])

    @answered
    async def children(self, task_id: str) -> tuple[str, ...]:
        """Ids of the tasks that go on from this one, the oldest first, CHILDREN_MAX at most. None where it is unknown.

        Raises:
            InvalidInput: (code `malformed_id`)
        """
        return await self._table.children(object_id(task_id), CHILDREN_MAX)

    @answered
    async def queue(self) -> QueueState:
        """How many tasks wait and are worked on, for how long, and how fast they finish."""
        return await self._queue.state()

    @answered
    async def place(self, task: Task) -> Place:
        """Where a task that was read as queued stands by now."""
        return await self._queue.place_of(task)

    # Listening

    async def open_audio(self, task: Task, start_byte: int = 0) -> tuple[int, AsyncIterator[bytes]]:
        """A completed task's audio: its size in bytes, and its bytes from `start_byte` on, by chunks of a number
        divisible by 3 (but the last).

        Raises (here, or from the iterator):
            RecoverableError: (code `audio_gone`) the task was restarted, forgotten or has expired since it was read.
        """
        assert task.result is not None, f"task {task.id} is {task.status} and has no audio"
        return await self._open(task.result, start_byte)

    async def open_take(self, task: Task, take: int, start_byte: int = 0) -> tuple[int, AsyncIterator[bytes]]:
        """As `open_audio`, of a take: a WAV file. A job of the old kinds made one take.

        Raises (here, or from the iterator):
            InvalidInput: (code `unknown_take`) the task has not made so many.
            RecoverableError: (code `audio_gone`) as `open_audio`.
        """
        if take == 0 and task.result is not None:
            return await self._open(task.result, start_byte)
        return await self._open(_taken(task, take, [made.wav for made in task.takes]), start_byte)

    async def open_codes(self, task: Task, take: int) -> tuple[int, AsyncIterator[bytes]]:
        """As `open_take`, of a take's codes, which a job of the old kinds did not keep."""
        return await self._open(_taken(task, take, [made.codes for made in task.takes]), 0)

    @answered
    async def live(self, task_id: str, fence: int, take: int, from_sample: int) -> list[LiveChunk]:
        """What is there of a take from `from_sample` on, in order, in part where it is much; [] where nothing is.

        Chunks are there from the first that the claim's worker adds until its task is over or another's; from then on
        it is [] for ever, and the task tells what became of it. They follow each other as the worker added them.

        Args:
            fence: of the task as it was read.
            from_sample: per channel. It need not be where a chunk begins: another attempt cuts chunks elsewhere.

        Raises:
            InvalidInput: (code `malformed_id`)
        """
        voice = Voice(object_id(task_id), fence, take)
        chunks = await self._live.since(voice, from_sample)
        if not chunks or chunks[0].start_sample == from_sample:
            return chunks
        task = await self._table.find(voice.task_id)
        before = await self._live.last_before(voice, from_sample)
        if task is None or task.sheet is None or before is None:
            return []
        rest = before.cut(from_sample, task.sheet.channels)
        return [rest, *chunks] if rest.pcm else []  # empty: something is missing, and the file alone can tell what

    # Ending

    @answered
    async def cancel(self, task_id: str) -> Task:
        """Ends an unfinished task for good; its worker finds LeaseLost at its next write. A finished one stays.

        Returns:
            The task as it is now.

        Raises:
            InvalidInput: (code `malformed_id`)
            UnknownTask: no such task.
        """
        while (task := await self.get(task_id)).status in UNFINISHED:
            now = await self._now()
            expires_at = now + timedelta(seconds=self._config.ttl_s)
            fields = {"lease": None, "fence": task.fence + 1, "expires_at": expires_at}
            if await self._table.swap(task, Status.CANCELLED, now, fields):
                await self._drop_live(task_id, task.fence + 1)
        return task

    @answered
    async def forget(self, task_id: str) -> None:
        """Deletes a finished task, and then its files. A request that made it is not done anew when it comes again.

        A task that goes on from this one and is created in this very moment finds no parent, and fails.

        Raises:
            InvalidInput: (code `malformed_id`)
            UnknownTask: no such task.
            Conflict: (code `unfinished`) it is not over; (code `has_unfinished_children`) a task that is not over goes
                on from it.
        """
        while True:
            task = await self.get(task_id)
            if task.status in UNFINISHED:
                raise Conflict(f"task {task_id} is {task.status}; cancel it first", "unfinished")
            if await self._table.has_unfinished_child(ObjectId(task_id)):
                raise Conflict(f"a task that is not over goes on from {task_id}", "has_unfinished_children")
            if task.request is not None:
                await self._uses.settle(task.request)
            await self._files.look_now(task.file_ids)
            if await self._table.delete(task):
                break
        await self._discard_soon(task.file_ids)

    # Within

    @answered
    async def _create_small(self, job: AnyJob, idempotency: Idempotency | None) -> str:
        return await self._create(job, idempotency, None)

    @translated
    async def _create(self, job: AnyJob, idempotency: Idempotency | None, upload: bytes | None) -> str:
        if idempotency is None:
            task_id = ObjectId()
            await self._admit(task_id, job, None, upload)
            return str(task_id)
        known = await self.replayed(idempotency)
        if known is not None:
            return known
        try:
            use = await self._uses.reserve(idempotency, ObjectId())
            with suppress(DuplicateKeyError):  # the same request beside us was faster
                await self._admit(use.task_id, job, use.mark, upload)
            return str(use.task_id)
        except QueueFull:
            known = await self.replayed(idempotency)  # ... and may have had the last place
            if known is None:
                raise
            return known

    async def _admit(self, task_id: ObjectId, job: AnyJob, mark: RequestMark | None, upload: bytes | None) -> None:
        """Inserts the task if there is room, its upload stored before it. Raises QueueFull, DuplicateKeyError."""
        if upload is None:
            async with self._queue.place():
                await self._table.insert(task_id, job, await self._now(), None, mark)
            return
        await self._queue.check()  # a full house costs no upload
        file = await self._files.put(task_id, upload)
        try:
            async with self._queue.place():
                await self._table.insert(task_id, job, await self._now(), file, mark)
        except (QueueFull, DuplicateKeyError):
            await self._discard_soon([file.file_id])
            raise

    async def _swap_job(
        self, task_id: ObjectId, job: ContinueJob, upload: AudioFile, use: Use | None
    ) -> tuple[str, ...]:
        """Queues a task anew, unless the use was that already; the files that nobody needs any more.

        Raises UnknownTask: there is none.
        """
        mark = use.mark if use is not None else None
        while (before := await self._table.find(task_id)) is not None:
            if mark is not None and await self._uses.is_done(mark, before):
                return (upload.file_id,)
            if before.request is not None:
                await self._uses.settle(before.request)
            now = await self._now()
            fields = {**requeued(job, now, upload, mark), "fence": before.fence + 1}
            if await self._table.swap(before, Status.QUEUED, now, fields):
                await self._drop_live(before.id, before.fence + 1)
                return before.file_ids
            # Its worker wrote in between. Next time around, or the one after, it has nothing left to write.
        raise UnknownTask(f"no task has the id {task_id}")

    @answered
    async def _open(self, file: AudioFile, start_byte: int) -> tuple[int, AsyncIterator[bytes]]:
        return await self._files.open(file, start_byte)


def _taken(task: Task, take: int, files: list[AudioFile]) -> AudioFile:
    if not 0 <= take < len(files):
        raise InvalidInput(
            f"task {task.id} has made {len(files)} takes, counted from 0; there is no {take}", "unknown_take"
        )
    return files[take]
