"""Which checkpoints a replica holds: loaded once, kept within a memory budget, never taken from under a request.

Serve's own multiplexing evicts models in use; here a request holds the engine that it uses, and only idle ones go. Its
state changes on one event loop between two awaits, so it needs no lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic

from gary.engine.request import Engine


@dataclass(eq=False)
class _Place:
    """An engine, or one that is still loading.

    Attributes:
        users: requests that hold it, or wait for it to be loaded.
    """

    checkpoint: str
    loading: asyncio.Task[Engine]
    users: int = 0

    @property
    def is_idle(self) -> bool:
        return self.loading.done() and not self.users


@dataclass(frozen=True, eq=False)
class _Turn:
    """A request that waits.

    Attributes:
        since_s: by the shelf's clock.
    """

    checkpoint: str
    since_s: float


class EngineShelf:
    """Engines by checkpoint, the least recently used first.

    What an engine takes is `Engine.held_bytes`, known once it was loaded here; until then it counts as much as the
    largest known, since the models of one replica are of one size. One engine is always allowed, whatever the budget:
    0 holds one at a time.

    Args:
        start: loads a checkpoint; blocking, run in a thread, one at a time.
        budget_bytes: what the engines held at once may take; a request for one more waits until others are idle.
        pinned: the last to go, and only for an engine that does not fit beside it.
        patience_s: a request that has waited so long for room lets nobody else begin on the engines that must go for
            it; sooner, and two models in turns would be loaded for each request.
        clock_s: a clock that does not jump.
    """

    def __init__(
        self,
        start: Callable[[str], Engine],
        budget_bytes: int = 0,
        pinned: str | None = None,
        patience_s: float = 20.0,
        clock_s: Callable[[], float] = monotonic,
    ) -> None:
        self._start = start
        self._budget_bytes = budget_bytes
        self._pinned = pinned
        self._patience_s = patience_s
        self._clock_s = clock_s
        self._places: dict[str, _Place] = {}  # least recently used first
        self._sizes_bytes: dict[str, int] = {}  # of all that were ever loaded here
        self._turns: list[_Turn] = []  # first come first
        self._one_load = asyncio.Lock()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def use(self, checkpoint: str) -> AsyncIterator[Engine]:
        """Lends the engine of a checkpoint, loading it first where needed.

        Raises:
            CheckpointError: it cannot be loaded; the next request tries again.
            DeviceError: the device failed, or has no room for it whatever the budget says.
        """
        place = await self._reserve(checkpoint)
        with self._held(place):
            yield await asyncio.shield(place.loading)

    @contextmanager
    def hold_last(self) -> Iterator[Engine | None]:
        """Lends the engine used last among the loaded, at once, and without its counting as used; None for none."""
        place = next((place for place in reversed(self._places.values()) if _is_loaded(place)), None)
        if place is None:
            yield None
            return
        place.users += 1
        with self._held(place):
            yield place.loading.result()

    @property
    def resident(self) -> tuple[str, ...]:
        """The checkpoints that are loaded or on their way, the least recently used first."""
        return tuple(self._places)

    @property
    def held_bytes(self) -> int:
        """What the engines take, as far as it is known."""
        return sum(map(self._size_bytes, self._places))

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Those that are loaded."""
        return tuple(place.loading.result() for place in self._places.values() if _is_loaded(place))

    def check_health(self) -> None:
        """Raises DeviceError where an engine cannot serve any more."""
        for engine in self.engines:
            engine.check_health()

    def close(self) -> None:
        """Closes every engine; requests under way end with Aborted."""
        for engine in self.engines:
            engine.close()
        self._places.clear()

    @contextmanager
    def _held(self, place: _Place) -> Iterator[None]:
        try:
            yield
        finally:
            place.users -= 1
            self._tell()

    async def _reserve(self, checkpoint: str) -> _Place:
        """A place with this request among its users."""
        turn = _Turn(checkpoint, self._clock_s())
        self._turns.append(turn)
        try:
            while (place := self._found(turn) or self._made(turn)) is None:
                await self._changed.wait()
        finally:
            self._turns.remove(turn)
            self._tell()
        place.users += 1
        self._places[checkpoint] = self._places.pop(checkpoint)
        return place

    def _found(self, turn: _Turn) -> _Place | None:
        place = self._places.get(turn.checkpoint)
        first = self._first_to_load()
        if place is None or first is None or self._clock_s() - first.since_s < self._patience_s:
            return place
        return None if place in self._leaving(first) else place

    def _made(self, turn: _Turn) -> _Place | None:
        """A new place, where it is this one's turn and whoever must go for it is idle."""
        if turn.checkpoint in self._places or turn is not self._first_to_load():
            return None
        leaving = self._leaving(turn)
        if not all(place.is_idle for place in leaving):
            return None
        for place in leaving:
            del self._places[place.checkpoint]
        loading = asyncio.create_task(self._load(turn.checkpoint, [place.loading for place in leaving]))
        place = self._places[turn.checkpoint] = _Place(turn.checkpoint, loading)
        return place

    def _first_to_load(self) -> _Turn | None:
        return next((turn for turn in self._turns if turn.checkpoint not in self._places), None)

    def _leaving(self, turn: _Turn) -> list[_Place]:
        """Who must go for a newcomer: the idle before those in use, the pinned last, least recently used first."""
        room_bytes = self._budget_bytes - self._size_bytes(turn.checkpoint) - self.held_bytes
        leaving = []
        for place in sorted(self._places.values(), key=lambda place: (self._is_pinned(place), not place.is_idle)):
            if room_bytes >= 0:
                break
            leaving.append(place)
            room_bytes += self._size_bytes(place.checkpoint)
        return leaving

    def _is_pinned(self, place: _Place) -> bool:
        return place.checkpoint == self._pinned

    def _size_bytes(self, checkpoint: str) -> int:
        return self._sizes_bytes.get(checkpoint, max(self._sizes_bytes.values(), default=0))

    async def _load(self, checkpoint: str, leaving: list[asyncio.Task[Engine]]) -> Engine:
        """Goes on where whoever asked has given up: the next one may want it.

        What leaves is closed and forgotten first, so that its memory is free; not on the event loop, as that takes a
        while.
        """
        try:
            async with self._one_load:
                while leaving:
                    await asyncio.to_thread(leaving.pop().result().close)
                engine = await asyncio.to_thread(self._start, checkpoint)
            self._sizes_bytes[checkpoint] = engine.held_bytes
            return engine
        except BaseException:
            self._places.pop(checkpoint, None)
            raise
        finally:
            self._tell()

    def _tell(self) -> None:
        """Wakes all who wait; each looks again whether it is its turn."""
        self._changed.set()
        self._changed = asyncio.Event()


def _is_loaded(place: _Place) -> bool:
    """One that failed is gone before its task is done, unless it was cancelled from outside."""
    return place.loading.done() and not place.loading.cancelled()
