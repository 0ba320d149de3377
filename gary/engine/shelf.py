"""Which checkpoints a replica holds: loaded once, kept while there is room, never taken from under a request.

Serve's own multiplexing evicts models in use; here a request holds the engine that it uses, and only idle ones go.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gary.engine.request import Engine


class EngineShelf:
    """Engines by checkpoint, the least recently used first.

    Args:
        start: loads a checkpoint; blocking, run in a thread, one at a time.
        capacity: engines held at once; a request for one more waits until another is idle.
    """

    def __init__(self, start: Callable[[str], Engine], capacity: int) -> None:
        self._start = start
        self._capacity = capacity
        self._engines: dict[str, asyncio.Task[Engine]] = {}  # least recently used first; some still loading
        self._users: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def use(self, checkpoint: str) -> AsyncIterator[Engine]:
        """Lends the engine of a checkpoint, loading it first where needed.

        Raises:
            CheckpointError: it cannot be loaded; the next request tries again.
        """
        loading = await self._reserve(checkpoint)
        try:
            yield await asyncio.shield(loading)
        finally:
            async with self._changed:
                self._users[checkpoint] -= 1
                self._changed.notify_all()

    async def _reserve(self, checkpoint: str) -> asyncio.Task[Engine]:
        async with self._changed:
            await self._changed.wait_for(lambda: checkpoint in self._engines or self._make_room())
            loading = self._engines.pop(checkpoint, None) or asyncio.create_task(self._load(checkpoint))
            self._engines[checkpoint] = loading
            self._users[checkpoint] += 1
            return loading

    async def _load(self, checkpoint: str) -> Engine:
        """Goes on where whoever asked has given up: the next one may want it."""
        try:
            return await asyncio.to_thread(self._start, checkpoint)
        except BaseException:
            del self._engines[checkpoint]
            raise
        finally:
            async with self._changed:
                self._changed.notify_all()

    def _make_room(self) -> bool:
        """Closes idle engines, the least recently used first, until one more fits."""
        for name in [name for name, task in self._engines.items() if task.done() and not self._users[name]]:
            if len(self._engines) < self._capacity:
                break
            self._engines.pop(name).result().close()
        return len(self._engines) < self._capacity

    @property
    def last_used(self) -> str | None:
        """The checkpoint used last, among those that are loaded; None for none."""
        return next((name for name, task in reversed(self._engines.items()) if task.done()), None)

    def check_health(self) -> None:
        """Raises DeviceError where an engine cannot serve any more."""
        for engine in self.engines:
            engine.check_health()

    def close(self) -> None:
        """Closes every engine; requests under way end with Aborted."""
        for engine in self.engines:
            engine.close()
        self._engines.clear()

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Those that are loaded."""
        return tuple(task.result() for task in self._engines.values() if task.done())
