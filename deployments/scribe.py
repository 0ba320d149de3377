"""Tells the task store what an attempt has made so far: its audio, in order, and how far it is.

The stream that brings the music never waits for the database: what is to be told is noted, and one task of its own
writes it, one write at a time, audio first. Nothing here fails an attempt. While the database is away the audio waits,
so that listeners find no gap afterwards, and of the progress only the latest word is kept. A claim that was lost ends
the telling; the conductor's watch ends the attempt.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self

from gary.errors import DatabaseUnavailable, LeaseLost
from gary.tasks.task import Claim

_log = logging.getLogger("ray.serve")
_AGAIN_S = 0.5  # after a database that was away
_CHUNK_BYTES = 1 << 20  # one document holds 16 MB; one write is to be quick

_Write = Callable[[], Coroutine[Any, Any, None]]


class Told(Protocol):
    """What of a task store a scribe needs; see `TaskStore`."""

    async def add_live(self, claim: Claim, take: int, start_sample: int, pcm: bytes) -> None: ...

    async def set_progress(
        self, claim: Claim, fraction: float, frames_done: int = 0, frames_total: int = 0, eta_s: float | None = None
    ) -> None: ...


class Scribe:
    """Leaving its block ends it: what has not been written by then is in the result, or of no interest.

    Args:
        progress_s: least time between two writes of progress.
    """

    def __init__(self, store: Told, claim: Claim, progress_s: float) -> None:
        self._store = store
        self._claim = claim
        self._progress_s = progress_s
        self._pace = Pace()
        self._audio: deque[_Write] = deque()
        self._progress: _Write | None = None
        self._told_s = monotonic()
        self._something = asyncio.Event()
        self._left = False

    def audio(self, take: int, start_sample: int, pcm: bytes, frame_bytes: int) -> None:
        """Notes new samples of a take.

        Args:
            frame_bytes: of one sample of every channel.
        """
        step = _CHUNK_BYTES - _CHUNK_BYTES % frame_bytes
        for first in range(0, len(pcm), step):
            at = start_sample + first // frame_bytes
            self._audio.append(partial(self._store.add_live, self._claim, take, at, pcm[first : first + step]))
        self._something.set()

    def progress(self, frames_done: int, frames_total: int) -> None:
        """Notes how many frames are there, over all takes; told once the last word of it is old enough."""
        eta_s = self._pace.eta_s(frames_done, frames_total)
        fraction = frames_done / frames_total
        self._progress = partial(self._store.set_progress, self._claim, fraction, frames_done, frames_total, eta_s)
        self._something.set()

    @property
    def ended(self) -> bool:
        """Whether nothing more will be told."""
        return self._writer.done()

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Said twice: before Python 3.12 `asyncio.wait_for`, by which pymongo writes, can swallow a cancellation.
        self._left = True
        self._writer.cancel()
        await asyncio.wait({self._writer})  # and not awaited itself: a cancellation of ours would look like its own
        if not self._writer.cancelled():
            self._writer.result()

    async def _write(self) -> None:
        try:
            while not self._left:
                await self._wait()
                while self._audio and not self._left:
                    await self._written(self._audio[0])
                    self._audio.popleft()
                if self._progress and self._due_s() <= 0:
                    progress, self._progress, self._told_s = self._progress, None, monotonic()
                    await self._written(progress)
        except LeaseLost as error:
            _log.info("task %s: no more is told: %s", self._claim.task.id, error)

    async def _wait(self) -> None:
        """Until something is noted, or progress that was noted before is due."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._due_s() if self._progress else None):
                await self._something.wait()
        self._something.clear()

    def _due_s(self) -> float:
        """Seconds until progress may be written again."""
        return max(0.0, self._told_s + self._progress_s - monotonic())

    async def _written(self, write: _Write) -> None:
        """Writes until the database has it, or nobody wants it any more."""
        while not self._left:
            try:
                await write()
                return
            except DatabaseUnavailable as error:
                _log.warning("task %s: live audio and progress wait: %s", self._claim.task.id, error)
                await asyncio.sleep(_AGAIN_S)


class Pace:
    """How long the rest will take, by the frames since the first one that was heard of."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def eta_s(self, frames_done: int, frames_total: int) -> float | None:
        """Seconds; None until there is something to go by."""
        now_s = self._clock()
        if self._first is None:
            self._first = (frames_done, now_s) if frames_done else None
            return None
        first_frames, first_s = self._first
        if frames_done <= first_frames:
            return None
        return (frames_total - frames_done) * (now_s - first_s) / (frames_done - first_frames)
