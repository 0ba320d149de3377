"""One request between the event loop that asked for it and the decode thread that works on it.

The thread never waits for the loop: it leaves its latest progress and rings; who listens slowly hears less often.
The loop never waits for the thread: an abort ends the listening at once, and the thread at its next report.
"""

from __future__ import annotations

import asyncio

from gary.engine.request import Progress
from gary.errors import Aborted

_REPORTS = 100  # progress is passed on about so often in one request


class Job:
    """Made in the event loop that listens; `report` and `ring` are for any other thread, `abort` for all."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._loop = asyncio.get_running_loop()
        self._bell = asyncio.Event()
        self._latest: Progress | None = None
        self._taken: Progress | None = None
        self._aborted = False

    def report(self, progress: Progress) -> None:
        """Leaves progress for the listener.

        Raises:
            Aborted: nobody wants the request's result any more.
        """
        self._raise_if_aborted()
        last, total = self._latest, progress.frames_total
        finished = progress.frames_done == total
        if last is None or finished or (progress.frames_done - last.frames_done) * _REPORTS >= total:
            self._latest = progress
            self.ring()

    def ring(self) -> None:
        """Wakes the listener."""
        try:
            self._loop.call_soon_threadsafe(self._bell.set)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            self._aborted = True  # the listener's loop has ended, and the listener with it

    def abort(self) -> None:
        self._aborted = True
        self.ring()

    async def rung(self) -> None:
        """Waits for the next ring.

        Raises:
            Aborted: `abort` was called.
        """
        await self._bell.wait()
        self._bell.clear()
        self._raise_if_aborted()

    def take_progress(self) -> Progress | None:
        """The latest progress, once; None where there is nothing new."""
        latest = self._latest
        if latest is self._taken:
            return None
        self._taken = latest
        return latest

    def _raise_if_aborted(self) -> None:
        if self._aborted:
            raise Aborted(f"the request {self._request_id} was given up")
