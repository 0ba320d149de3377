"""What workers do with the task store: claim, keep a lease, tell how far they are, hand in what they made.

Every write shows the claim, and is refused with LeaseLost once the task is another's. A worker waits for an answer as
long as a large file may take: nobody waits for the worker.
"""

from __future__ import annotations

import asyncio
import hashlib
from asyncio import gather
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from bson import ObjectId
from pydantic import JsonValue

from gary.errors import FatalError, GaryError, LeaseLost, ModelAway
from gary.tasks.boundary import translated
from gary.tasks.documents import UNTOLD, Document, facts_update, file_ids_of, object_id, steps_after
from gary.tasks.live import LiveChunk
from gary.tasks.music import AudioFile, Receipt, Sheet, Take
from gary.tasks.queue import backoff_s
from gary.tasks.side import Side
from gary.tasks.task import WORKING, Claim, Lease, Status, Task, TaskError

_MODEL_WAIT_S = 5.0  # between two looks for a replica that has a task's model
_GARBAGE_BATCH = 100  # files looked at in one round


@dataclass(frozen=True, eq=False)
class MadeTake:
    """A finished answer, on its way to the store.

    Attributes:
        wav: 16-bit PCM.
        codes: the same music as codes.
    """

    seed: int
    wav: bytes
    codes: bytes
    duration_s: float


class WorkerSide(Side):
    """The store as workers use it."""

    # Having a task

    @translated
    async def claimable(self, limit: int) -> list[str]:
        """Ids of tasks that may begin or have lost their worker, the oldest job first, `limit` at most."""
        return await self._table.claimable(await self._now(), limit)

    @translated
    async def claim(self, task_id: str, owner: str) -> Claim | None:
        """Takes a task to work on for a lease; None where it is not to be had, or another was faster.

        A task that was begun as often as it may be becomes failed instead: for the latest setback, or with
        AttemptsExhausted's code where none is known.
        """
        now = await self._now()
        task = await self._table.find(object_id(task_id))
        if task is None or not task.is_claimable(now):
            return None
        if task.attempts >= self._config.max_attempts:
            error = TaskError.given_up(task.attempts, task.setback).model_dump()
            if await self._table.swap(task, Status.FAILED, now, self._finished(now, error=error)):
                await self._drop_live(task.id, task.fence + 1)
            return None
        lease = Lease(owner=owner, until=now + timedelta(seconds=self._config.lease_s))
        changed = {"attempts": task.attempts + 1, "fence": task.fence + 1, "lease": lease, **UNTOLD}
        if not await self._table.swap(task, Status.FETCHING, now, {**changed, "lease": lease.model_dump()}):
            return None
        await self._drop_live(task.id, task.fence + 1)
        stepped = {"status": Status.FETCHING, "steps": steps_after(task, Status.FETCHING, now)}
        return Claim(task=task.model_copy(update=changed | stepped))

    @translated
    async def held(self, owner: str) -> dict[str, int]:
        """The tasks that `owner` works on as the database sees it: the fence of each, by id. One cheap query.

        What an owner has claimed and does not find here was cancelled, restarted or taken over.
        """
        return await self._table.held(owner)

    @translated
    async def renew(self, claim: Claim) -> None:
        """The worker is alive: its lease begins anew. Raises LeaseLost."""
        until = await self._now() + timedelta(seconds=self._config.lease_s)
        await self._table.write(claim, {"lease.until": until})

    @translated
    async def read_upload(self, task: Task) -> bytes:
        """The audio that was sent with the task.

        Raises:
            RecoverableError: (code `audio_gone`) the task was restarted since it was read.
        """
        assert task.upload is not None, f"task {task.id} has no upload"
        return await self._files.read(task.upload)

    @translated
    async def read_file(self, file: AudioFile) -> bytes:
        """All of a file that a task refers to.

        Raises:
            RecoverableError: (code `audio_gone`) its task was restarted, forgotten or has expired since it was read.
        """
        return await self._files.read(file)

    # Telling how far it is

    @translated
    async def advance(self, claim: Claim, status: Status) -> None:
        """The next stage of the work. Raises LeaseLost; FatalError (code `illegal_transition`)."""
        assert status in WORKING - {Status.FETCHING}, f"a worker does not advance a task to {status}"
        await self._table.step(claim, status, await self._now(), {})

    @translated
    async def begin_music(self, claim: Claim, sheet: Sheet) -> None:
        """Generating, and this is what is being made; no progress has been told yet.

        Raises LeaseLost; FatalError (code `illegal_transition`).
        """
        fields = {**UNTOLD, "sheet": sheet.model_dump()}
        await self._table.step(claim, Status.GENERATING, await self._now(), fields)

    @translated
    async def set_progress(
        self, claim: Claim, fraction: float, frames_done: int = 0, frames_total: int = 0, eta_s: float | None = None
    ) -> None:
        """`fraction` of the work, 0 to 1, is done: so many of the frames of codes, over all takes. Raises LeaseLost.

        Args:
            eta_s: until all of them are.
        """
        assert 0 <= fraction <= 1, f"progress is 0 to 1, not {fraction}"
        assert 0 <= frames_done <= frames_total, f"{frames_done} of {frames_total} frames are done"
        assert eta_s is None or eta_s >= 0, f"{eta_s} s are left"
        told = {"frames_done": frames_done, "frames_total": frames_total, "eta_s": eta_s}
        await self._table.write(claim, {"progress": float(fraction), **told})

    @translated
    async def add_live(self, claim: Claim, take: int, start_sample: int, pcm: bytes) -> None:
        """Adds to what may be heard already of a take: 16-bit little-endian samples, channels interleaved.

        A chunk begins where the one before it ended, the first at 0; added again, it is there once. One insert, that
        does not look whether the task is still this worker's: where it is not, nobody reads it.

        Args:
            start_sample: per channel, of the answer.
        """
        assert len(pcm) % 2 == 0, f"{len(pcm)} bytes are no 16-bit samples"
        await self._live.add(claim, take, LiveChunk(start_sample, pcm))

    @translated
    async def record(self, claim: Claim, facts: Mapping[str, JsonValue]) -> None:
        """Adds to the task's facts. Raises LeaseLost."""
        await self._table.write(claim, facts_update(facts))

    # Ending

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
        await self._complete(claim, {"result": file.model_dump(), **facts_update(facts)}, [file])

    @translated
    async def finish_music(
        self,
        claim: Claim,
        takes: Sequence[MadeTake],
        receipt: Receipt,
        facts: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """As `finish`, of a music job: all takes in one write, in order, the first of them as the result too."""
        stored = await gather(*(self._put_take(claim, take) for take in takes))
        fields = {
            "takes": [take.model_dump() for take in stored],
            "result": stored[0].wav.model_dump(),
            "receipt": receipt.model_dump(),
            **facts_update(facts),
        }
        await self._complete(claim, fields, [file for take in stored for file in (take.wav, take.codes)])

    @translated
    async def fail(self, claim: Claim, error: GaryError, facts: Mapping[str, JsonValue] | None = None) -> None:
        """Ends the task as failed. Raises LeaseLost."""
        await self._fail(claim, TaskError.of(error), facts)

    @translated
    async def release(self, claim: Claim, reason: GaryError) -> float | None:
        """Back into the queue for another attempt, or failed where this was the last. Raises LeaseLost.

        Args:
            reason: why this attempt failed; told in the end, should no attempt succeed.

        Returns:
            Seconds from now until the next attempt may begin; None where there is none.
        """
        if isinstance(reason, ModelAway):
            return await self._await_model(claim, reason)
        attempts, setback = claim.task.attempts, TaskError.of(reason)
        if attempts >= self._config.max_attempts:
            await self._fail(claim, TaskError.given_up(attempts, setback))
            return None
        wait_s = backoff_s(attempts, self._config)
        now = await self._now()
        fields = {"lease": None, "setback": setback.model_dump(), "not_before": now + timedelta(seconds=wait_s)}
        await self._table.step(claim, Status.QUEUED, now, fields)
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
            task = await self._table.files_of(row.task_id)
            if task is None or str(row.file_id) not in file_ids_of(task):
                await self._files.discard([row.file_id])
                deleted += 1
            else:
                await self._files.look_later(row, max(now, task["expires_at"] or now))
        return deleted

    # Within

    async def _await_model(self, claim: Claim, reason: ModelAway) -> float | None:
        """As `release`, but by time and not by attempts: a new model's replicas take as long as its loading does."""
        now = await self._now()
        if now - claim.task.queued_at > timedelta(seconds=self._config.model_patience_s):
            await self._fail(claim, TaskError.of(reason))
            return None
        uncounted = {"attempts": claim.task.attempts - 1, "not_before": now + timedelta(seconds=_MODEL_WAIT_S)}
        fields = {"lease": None, "setback": TaskError.of(reason).model_dump(), **uncounted}
        await self._table.step(claim, Status.QUEUED, now, fields)
        return _MODEL_WAIT_S

    async def _put_take(self, claim: Claim, take: MadeTake) -> Take:
        task_id = ObjectId(claim.task.id)
        digest, wav, codes = await gather(
            asyncio.to_thread(hashlib.sha256, take.wav),
            self._files.put(task_id, take.wav),
            self._files.put(task_id, take.codes),
        )
        return Take(seed=take.seed, wav=wav, codes=codes, wav_sha256=digest.hexdigest(), duration_s=take.duration_s)

    async def _complete(self, claim: Claim, fields: Document, files: Sequence[AudioFile]) -> None:
        now = await self._now()
        try:
            await self._table.step(claim, Status.COMPLETED, now, {**self._finished(now), **fields})
        except (LeaseLost, FatalError):
            await self._discard_soon([file.file_id for file in files])
            raise
        await self._drop_live(claim.task.id, claim.fence + 1)

    async def _fail(self, claim: Claim, error: TaskError, facts: Mapping[str, JsonValue] | None = None) -> None:
        now = await self._now()
        fields = {**self._finished(now, error=error.model_dump()), **facts_update(facts)}
        await self._table.step(claim, Status.FAILED, now, fields)
        await self._drop_live(claim.task.id, claim.fence + 1)
