"""An attempt ends when its work does, though the database swallow the cancellation of what is beside it.

Before Python 3.12 `asyncio.wait_for`, by which pymongo writes, returns its result where a cancellation meets it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from deployments.conductor import Conductor
from deployments.tracing import OFF
from gary.config import TasksConfig
from gary.errors import GaryError, RecoverableError
from tests.deployments.test_scribe import CLAIM


class Deaf:
    """A store in whose first `renew` a cancellation is lost."""

    def __init__(self) -> None:
        self.renewing = asyncio.Event()

    async def renew(self, claim: Any) -> None:
        if self.renewing.is_set():
            return
        self.renewing.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


class Work:
    """Ends, or fails, while the lease is being renewed."""

    def __init__(self, store: Deaf, error: GaryError | None) -> None:
        self._store, self._error = store, error

    async def make(self, claim: Any) -> Any:
        await self._store.renewing.wait()
        if self._error is not None:
            raise self._error
        return self

    async def hand_in(self, store: Any, claim: Any) -> None:
        """What was made is handed in at once."""


def _conductor(error: GaryError | None) -> Conductor:
    """No replica: its loops and its database are none of this test's business."""
    conductor, store = Conductor.__new__(Conductor), Deaf()
    parts = {"_store": store, "_work": Work(store, error), "_args": TasksConfig(lease_s=0.03)}
    for name, part in (parts | {"_attempts": {}, "_busy": asyncio.Event(), "_tracing": OFF}).items():
        setattr(conductor, name, part)
    return conductor


async def _attempt(error: GaryError | None) -> asyncio.Task[None]:
    """The attempt once it has ended. Waited for from outside: a group that is being cancelled heeds no second time."""
    done, _ = await asyncio.wait({asyncio.create_task(_conductor(error)._under_lease(CLAIM))}, timeout=5)
    assert done, "the attempt goes on though its work is over"
    return done.pop()


async def test_an_attempt_that_is_done_ends() -> None:
    """Not when the lease runs out, and not never."""
    assert (await _attempt(None)).exception() is None


async def test_an_attempt_that_failed_ends() -> None:
    """With its own error: else the lease would be renewed for ever, and the task be lost."""
    ended = await _attempt(RecoverableError("the cropper was lost while it worked"))
    with pytest.raises(RecoverableError, match="lost while it worked"):
        await ended
