"""What both sides of the task store, clients' and workers', stand on: the parts of one database."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import pymongo
from bson import ObjectId

from gary.config import TasksConfig
from gary.errors import DatabaseUnavailable
from gary.tasks.boundary import database_errors
from gary.tasks.documents import Document, finished
from gary.tasks.files import AudioFiles
from gary.tasks.idempotency import Uses
from gary.tasks.live import LiveChunks
from gary.tasks.queue import Queue
from gary.tasks.table import Table

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """Of one database.

    Attributes:
        now: the database server's clock, by milliseconds.
        answer_s: within which a client is answered.
    """

    table: Table
    files: AudioFiles
    live: LiveChunks
    uses: Uses
    queue: Queue
    now: Callable[[], Awaitable[datetime]]
    config: TasksConfig
    answer_s: float


class Side:
    """A side of the task store."""

    def __init__(self, parts: Parts) -> None:
        self._table = parts.table
        self._files = parts.files
        self._live = parts.live
        self._uses = parts.uses
        self._queue = parts.queue
        self._now = parts.now
        self._config = parts.config
        self._answer_s = parts.answer_s

    def _finished(self, now: datetime, **fields: object) -> Document:
        return finished(now, now + timedelta(seconds=self._config.ttl_s), **fields)

    async def _discard_soon(self, file_ids: Iterable[str]) -> None:
        """What is not deleted now is left to `collect_garbage`: the task no longer refers to it."""
        with _or_later("files"):
            await self._files.discard(file_ids)

    async def _drop_live(self, task_id: str, below_fence: int) -> None:
        """Live audio of claims that are over; what is not deleted now goes by its time."""
        with _or_later("live audio"):
            await self._live.drop(ObjectId(task_id), below_fence)


@contextmanager
def _or_later(what: str) -> Iterator[None]:
    """Clearing away fails no call that has done its work."""
    try:
        with database_errors():
            yield
    except DatabaseUnavailable as error:
        _log.warning("%s left to be collected: %s", what, error)


S = TypeVar("S", bound=Side)
P = ParamSpec("P")
R = TypeVar("R")


def answered(method: Callable[Concatenate[S, P], Awaitable[R]]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """A method that a client waits for: its errors are translated, and its time is bounded as a whole.

    A server that hangs keeps its connections open, and an operation on one of them waits for its answer for as long as
    a large file may take. Bounded by pymongo's own deadline, which all operations within share, and not by cancelling:
    a cancellation at the moment when a connection is made is lost on Python 3.11 (`asyncio.wait_for`, cpython#86296),
    and the call then goes on for 10 s and more.
    """

    @wraps(method)
    async def inner(side: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with database_errors(), pymongo.timeout(side._answer_s):  # noqa: SLF001  of this very module
            return await method(side, *args, **kwargs)

    return inner
