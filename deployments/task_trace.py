"""The spans of a task that no process sees whole: the request that made it, its waits, its attempts.

    accept ─┬─ queued                       from its coming, or its setback, to its claim
            ├─ attempt ─┬─ fetching ── ...
            │           └─ ...
            └─ accept                       of another job for the same task: /continue

An attempt is told by whoever ends it in the store, once: its own conductor, one that takes the task over, an ingress
that cancels it. So an attempt whose worker was killed is told too, with the stage that it was in, as far as its lease
went, and what others had told of it hangs below. (A worker that only stood still for so long tells its stage as well.)
Times are the database's clock, the same for all of them.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from time import time_ns
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.spans import within
from deployments.tracing import Tracing
from gary.errors import LeaseLost
from gary.tasks.music import MusicJob
from gary.tasks.task import WORKING, Status, Task
from gary.tasks.witness import Change

_FOUND_LOST = frozenset({Status.FETCHING, Status.FAILED})  # by a claim: for the next attempt, or for none


@dataclass(eq=False)
class _Acceptance:
    """What a request has come to.

    Attributes:
        is_new: whether it made the task; else it gave one another job.
    """

    task_id: str | None = None
    is_new: bool = False


_acceptance: ContextVar[_Acceptance | None] = ContextVar("what the present request has come to", default=None)


def note_accepted(task_id: str) -> None:
    """The present request has given this task its job."""
    if acceptance := _acceptance.get():
        acceptance.task_id = task_id


class TaskTrace:
    """Tells what a store's witness hears."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def created(self) -> None:
        if acceptance := _acceptance.get():
            acceptance.is_new = True

    def changed(self, change: Change) -> None:
        before = change.before
        root = self._tracing.root(before.id)
        if root is None or not before.steps:  # an older version of the service wrote it
            return
        claimed = change.status is Status.FETCHING
        if before.status in WORKING and (claimed or change.status not in WORKING):
            self._attempt(root, change)
        if before.status is Status.QUEUED and claimed:
            times = (before.steps[-1].at, change.at)
            self._tracing.tell("queued", root, times, task=before.id, attempt=before.attempts + 1)

    def _attempt(self, root: str, change: Change) -> None:
        """The one that was under way, as far as its lease went where its worker was lost.

        That of a second worker that is lost while fetching begins where the first one's did: no step tells them apart.
        """
        before, until = change.before, change.at
        lost = before.lease is not None and until > before.lease.until and change.status in _FOUND_LOST
        if lost and before.lease is not None:
            until = before.lease.until
        own = self._tracing.attempt(before.id, before.fence)
        if lost:  # its worker has not told of the stage that it was in
            stage, since = before.status.value, before.steps[-1].at
            self._tracing.tell(stage, own, (since, until), own=within(own, stage), code=LeaseLost.default_code)
        self._tracing.tell(
            "attempt",
            root,
            (_claimed_at(before), until),
            own=own,
            code=LeaseLost.default_code if lost else change.code,
            task=before.id,
            job=before.job.kind,
            attempt=before.attempts,
            worker=before.lease.owner if before.lease is not None else None,
            model=before.job.model,
            takes=before.job.takes if isinstance(before.job, MusicJob) else 1,
            outcome="lost" if lost else _outcome(change),
        )


def _claimed_at(task: Task) -> datetime:
    return next((step.at for step in reversed(task.steps) if step.status is Status.FETCHING), task.queued_at)


def _outcome(change: Change) -> str:
    if change.status is Status.QUEUED:
        return "released" if change.code is not None else "restarted"
    return change.status.value


class Acceptances:
    """Middleware: tells a request that gave a task its job as a span, the root of the trace where it made the task.

    Any other request has no part in a trace, and what a client sends as a traceparent is not looked at.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing, route_of: Callable[[Scope], str]) -> None:
        self._app = app
        self._tracing = tracing
        self._route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        began_ns, status = time_ns(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        token = _acceptance.set(acceptance := _Acceptance())
        try:
            await self._app(scope, receive, watched)
        finally:
            _acceptance.reset(token)
            if acceptance.task_id is not None:
                self._tell(acceptance.task_id, acceptance.is_new, (began_ns, time_ns()), self._facts(scope, status))

    def _tell(self, task_id: str, is_new: bool, times: tuple[int, int], facts: dict[str, Any]) -> None:
        root = self._tracing.root(task_id)
        parent, own = (None, root) if is_new else (root, None)
        self._tracing.tell("accept", parent, times, own=own, task=task_id, **facts)

    def _facts(self, scope: Scope, status: int) -> dict[str, Any]:
        return {"method": scope["method"], "route": self._route_of(scope), "status": status or None}
