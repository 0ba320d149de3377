"""What became of a task since a listener last heard of it, as server-sent events (WHATWG HTML, 9.2)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sse_starlette import EventSourceResponse, ServerSentEvent

from gary.api.services import Services
from gary.api.v1.shown import as_of, shown
from gary.api.v1.watch import Watch
from gary.errors import DatabaseUnavailable, UnknownTask
from gary.tasks.task import UNFINISHED, Place, Status, Task

PING_S = 15
_MARK = re.compile(r"([0-9]{1,15})\.([0-9]{1,15})")


@dataclass(frozen=True, order=True)
class Mark:
    """How far somebody has heard: up to that change of state, and so many frames. It is an event's id."""

    seq: int
    frames_done: int
    progress: float = 0.0  # of a task of the old routes, which counts no frames; not in the id

    @classmethod
    def of(cls, task: Task) -> Mark:
        return cls(task.seq, task.frames_done, task.progress)

    @classmethod
    def parsed(cls, text: str | None) -> Mark | None:
        """None where it is none of ours: then everything is told anew."""
        match = _MARK.fullmatch(text or "")
        return cls(int(match[1]), int(match[2]), 1.0) if match else None

    def __str__(self) -> str:
        return f"{self.seq}.{self.frames_done}"


@dataclass(frozen=True)
class News:
    """An event: its kind, and the task as it was then."""

    kind: str
    mark: Mark
    task: Task


def news(task: Task, heard: Mark | None) -> list[News]:
    """What is to be told to somebody who has heard so much; every change of state, and the latest progress.

    Args:
        heard: None: somebody new, who is told how it stands.
    """
    latest = Mark.of(task)
    if heard is None:
        return [News("state", latest, task)]
    if task.seq > heard.seq:
        missed = [step for step in task.steps if heard.seq < step.seq < task.seq]
        before = [News("state", Mark(step.seq, 0), as_of(task, step)) for step in missed]
        return [*before, News("state", latest, task)]
    return [News("progress", latest, task)] if latest > heard else []


def has_heard_all(task: Task, heard: Mark | None) -> bool:
    """Whether the task is over and nothing is left to be told; a browser would ask again and again."""
    return task.status not in UNFINISHED and heard is not None and not news(task, heard)


def events_of(services: Services, watch: Watch, task: Task, heard: Mark | None) -> EventSourceResponse:
    """The answer that tells of a task until it is over."""
    return EventSourceResponse(_told(services, watch, task, heard), ping=PING_S)


async def _told(services: Services, watch: Watch, task: Task, heard: Mark | None) -> AsyncIterator[ServerSentEvent]:
    async with watch.listening(task) as listener:
        while True:
            for item in news(listener.task, heard):
                heard = item.mark
                yield await _event(services, item)
            if listener.task.status not in UNFINISHED:
                return
            try:
                await listener.changed()
            except UnknownTask:  # it was forgotten: nothing more will come
                return


async def _event(services: Services, item: News) -> ServerSentEvent:
    place = await _place(services, item.task) if item.task.status is Status.QUEUED else None
    data = shown(item.task, place).model_dump_json(by_alias=True)
    return ServerSentEvent(data, event=item.kind, id=str(item.mark))


async def _place(services: Services, task: Task) -> Place | None:
    """What is only told beside the rest is left out while the database does not answer."""
    try:
        return await services.store.place(task)
    except DatabaseUnavailable:
        return None
