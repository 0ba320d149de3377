"""How many tasks are in the house, how fast they leave it, and when the next attempt at one begins.

The number of unfinished tasks is bounded. Within one process the bound is exact: counting and adding are done under a
lock; another process may at the same moment add one beyond it. Counting goes through an index and costs the embedded
server about 0.02 ms for each unfinished task (10 ms at 500, however many are finished), so all who wait for the lock
share a count that was begun after they came.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import gather
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from pymongo.asynchronous.collection import AsyncCollection

from gary.config import TasksConfig
from gary.errors import DatabaseUnavailable, QueueFull
from gary.tasks.documents import one_of
from gary.tasks.task import UNFINISHED, WORKING, Place, QueueState, Status, Task

RATE_WINDOW = timedelta(minutes=10)
_RATE_GOOD_S = 1.0  # all who wait ask for the rate again and again, and it changes slowly
_RETRY_MIN_S, _RETRY_MAX_S = 1.0, 120.0
_RETRY_UNKNOWN_S = 30.0  # nothing finished lately: about a task's time


class Queue:
    """The unfinished tasks of one database.

    Args:
        now: the database server's clock.
        bound: as many tasks may be unfinished.
        patience_s: to wait for others that are being let in.
    """

    def __init__(
        self,
        tasks: AsyncCollection[dict[str, Any]],
        now: Callable[[], Awaitable[datetime]],
        bound: int,
        patience_s: float,
    ) -> None:
        self._tasks = tasks
        self._now = now
        self._bound = bound
        self._patience_s = patience_s
        self._turn = asyncio.Lock()
        self._counted_since_s = float("-inf")  # monotonic, when the count was begun
        self._count = 0
        self._retry_after_s = _RETRY_UNKNOWN_S
        self._rate_since_s = float("-inf")  # monotonic
        self._rate: float | None = None

    async def create_indexes(self) -> None:
        await self._tasks.create_index([("status", 1), ("queued_at", 1)], name="claimable")
        await self._tasks.create_index("finished_at", name="finished")

    async def state(self) -> QueueState:
        queued, working, oldest, per_minute, now = await gather(
            self._tasks.count_documents({"status": Status.QUEUED.value}),
            self._tasks.count_documents({"status": one_of(WORKING)}),
            self._tasks.find({"status": Status.QUEUED.value}, {"queued_at": 1}).sort("queued_at").limit(1).to_list(),
            self._finished_per_minute(),
            self._now(),
        )
        waiting_s = max(0.0, (now - oldest[0]["queued_at"]).total_seconds()) if oldest else None
        return QueueState(queued=queued, working=working, oldest_waiting_s=waiting_s, finished_per_minute=per_minute)

    async def place_of(self, task: Task) -> Place:
        """Where a queued task stands. Counting costs as much for each task before it as `place` does."""
        assert task.status is Status.QUEUED, f"task {task.id} is {task.status} and waits for nothing"
        before = {"status": Status.QUEUED.value, "queued_at": {"$lt": task.queued_at}}
        ahead, per_minute = await gather(self._tasks.count_documents(before), self._rate_of_late())
        return Place(position=ahead + 1, eta_s=(ahead + 1) * 60.0 / per_minute if per_minute else None)

    async def check(self) -> None:
        """Raises QueueFull: no task may be added at present."""
        async with self.place():
            self._count -= 1

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Room for one more task, which is added within the block.

        Raises:
            QueueFull: there is none; says when to come again.
            DatabaseUnavailable: those before us wait for the database.
        """
        came_s = monotonic()
        await self._take_turn()
        try:
            if self._counted_since_s < came_s:
                await self._count_anew()
            if self._count >= self._bound:
                raise QueueFull(
                    f"{self._bound} tasks wait or are worked on, and no more may; "
                    f"come again in {self._retry_after_s:.0f} s",
                    retry_after_s=self._retry_after_s,
                )
            self._count += 1
            yield
        finally:
            self._turn.release()

    async def _take_turn(self) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await self._turn.acquire()
        except TimeoutError as error:
            raise DatabaseUnavailable("the database is too slow to take tasks") from error

    async def _count_anew(self) -> None:
        since_s = monotonic()
        self._count = await self._tasks.count_documents({"status": one_of(UNFINISHED)}, limit=self._bound)
        if self._count >= self._bound:
            self._retry_after_s = retry_after_s(await self._finished_per_minute())
        self._counted_since_s = since_s

    async def _rate_of_late(self) -> float | None:
        """The rate at most a second ago."""
        if monotonic() - self._rate_since_s > _RATE_GOOD_S:
            since_s = monotonic()
            self._rate = await self._finished_per_minute()
            self._rate_since_s = since_s
        return self._rate

    async def _finished_per_minute(self) -> float | None:
        """Since the first that finished within the window, but a minute at least: a house that has just opened, or has
        just got work again, is as fast as it has been since then."""
        now = await self._now()
        lately = {"finished_at": {"$gt": now - RATE_WINDOW}}
        first = await self._tasks.find(lately, {"finished_at": 1}).sort("finished_at").limit(1).to_list()
        if not first:
            return None
        minutes: float = max((now - first[0]["finished_at"]) / timedelta(minutes=1), 1.0)
        return await self._tasks.count_documents(lately) / minutes


def retry_after_s(finished_per_minute: float | None) -> float:
    """When a place may be expected: the time in which one task finishes, between 1 s and 2 minutes."""
    if finished_per_minute is None:
        return _RETRY_UNKNOWN_S
    return min(max(60.0 / finished_per_minute, _RETRY_MIN_S), _RETRY_MAX_S)


def backoff_s(attempts: int, config: TasksConfig, draw: Callable[[], float] = random.random) -> float:
    """Seconds until the next attempt, `attempts` having failed.

    Doubles from `backoff_s` up to `backoff_max_s`; of that, half to all by chance, so that tasks that failed together
    do not come again together.

    Args:
        draw: 0 to 1.
    """
    doublings = min(attempts - 1, 64)  # more would be no number any longer
    longest_s = min(config.backoff_s * 2.0**doublings, config.backoff_max_s)
    return longest_s * (0.5 + 0.5 * draw())
