"""One look at the store for all who listen: every listened task is read by one query, a few times a second.

However many listen there is one poll, and none while nobody listens. A listener always finds the latest state; what
lies between two looks, a task's `steps` tell.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from gary.errors import FatalError, GaryError, RecoverableError, UnknownTask
from gary.tasks.task import Task

LOOK_S = 0.25

_log = logging.getLogger(__name__)


class Tasks(Protocol):
    """What of the task store is needed here."""

    async def watched(self, ids: Sequence[str]) -> Mapping[str, Task]: ...


class Listener:
    """What one listener knows.

    Attributes:
        task: as it was last seen.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._changed = asyncio.Event()
        self._error: GaryError | None = None

    async def changed(self, within_s: float | None = None) -> bool:
        """Waits for the task to change, at most so long; whether it has changed since the last call.

        Raises:
            UnknownTask: it was forgotten.
            GaryError: it cannot be read any more.
        """
        try:
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        if self._error is not None:
            raise self._error
        return True

    def tell(self, seen: Task) -> None:
        """What was seen; a look that was begun before the listener came may be older than what it knows."""
        is_older = (seen.fence, seen.seq) < (self.task.fence, self.task.seq)
        if seen != self.task and not is_older:
            self.task = seen
            self._changed.set()

    def break_off(self, error: GaryError) -> None:
        self._error = error
        self._changed.set()


class Watch:
    """Belongs to the event loop that first uses it.

    Args:
        look_s: time between two looks.
    """

    def __init__(self, tasks: Tasks, look_s: float = LOOK_S) -> None:
        self._tasks = tasks
        self._look_s = look_s
        self._listeners: dict[str, set[Listener]] = {}
        self._polling: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def listening(self, task: Task) -> AsyncIterator[Listener]:
        """A listener that is told of `task` for as long as the block lasts."""
        listener = Listener(task)
        self._listeners.setdefault(task.id, set()).add(listener)
        if self._polling is None:
            # of nobody's context: it lives on when the request that began it is cancelled
            self._polling = asyncio.get_running_loop().create_task(self._poll(), context=contextvars.Context())
            self._polling.add_done_callback(self._ended)
        try:
            yield listener
        finally:
            self._forget(task.id, listener)

    @property
    def is_polling(self) -> bool:
        return self._polling is not None

    def _forget(self, task_id: str, listener: Listener) -> None:
        heard = self._listeners[task_id]
        heard.discard(listener)
        if not heard:
            del self._listeners[task_id]
        if not self._listeners and self._polling is not None:
            self._polling.cancel()
            self._polling = None

    async def _poll(self) -> None:
        """Until it is cancelled. While the database does not answer, nobody hears anything; then it goes on."""
        answers = True
        # Not only until then: before Python 3.12 a cancellation that meets pymongo's write can be swallowed.
        while self._polling is asyncio.current_task():
            try:
                await self._look()
                answers = True
            except RecoverableError as error:
                if answers:
                    _log.warning("listeners wait: %s", error)
                answers = False
            except GaryError as error:
                _log.error("listeners are sent away: %s", error, exc_info=error)
                for listener in self._all():
                    listener.break_off(error)
            await asyncio.sleep(self._look_s)

    def _ended(self, polling: asyncio.Task[None]) -> None:
        """Nobody waits for a poll that a fault of ours has ended."""
        if not polling.cancelled() and (fault := polling.exception()) is not None:
            _log.error("looking at tasks failed", exc_info=fault)
            self._polling = None
            for listener in self._all():
                listener.break_off(FatalError("the service failed; the fault is ours and has been logged", "internal"))

    async def _look(self) -> None:
        asked = list(self._listeners)
        seen = await self._tasks.watched(asked)
        for task_id in asked:
            task = seen.get(task_id)
            for listener in tuple(self._listeners.get(task_id, ())):
                if task is None:
                    listener.break_off(UnknownTask(f"the task {task_id} was forgotten"))
                else:
                    listener.tell(task)

    def _all(self) -> list[Listener]:
        return [listener for heard in self._listeners.values() for listener in heard]
