"""A task's events, as one stream over as many connections as it takes.

A connection that is lost is made again from the last event on (Last-Event-ID), so none is told twice or left out.
Connections that bring nothing one after the other are counted, and give up; one that stood for a while is not counted,
since a proxy may cut it while a task waits in the queue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic

import httpx
from httpx_sse import EventSource, ServerSentEvent

from gary.client.errors import ClientError, ServiceFailed, ServiceUnreachable
from gary.client.values import Task
from gary.client.wire import Wire

_STOOD_S = 10.0
_SILENCE_S = 45.0  # a ping comes every 15 s


@dataclass(frozen=True)
class Event:
    """A change of state (`state`) or news of its progress (`progress`).

    Attributes:
        id: what Last-Event-ID says to hear what came after.
        task: as it stood then; its children are left out.
    """

    kind: str
    id: str
    task: Task


def follow(wire: Wire, task_id: str, last_id: str | None = None) -> Iterator[Event]:
    """The events of a task until it is over.

    Args:
        last_id: only what came after this event.

    Raises:
        Refused: the task is unknown, or became so.
        ServiceUnreachable, ServiceFailed: `patience.attempts` connections in a row brought nothing.
    """
    fruitless = 0
    while True:
        began_s = monotonic()
        error: ClientError = ServiceUnreachable(wire.base_url, "the stream of events ends too early")
        try:
            with wire.open(f"/v1/tasks/{task_id}/events", headers=_headers(last_id), timeout=_SILENCE_S) as response:
                if response.status_code == HTTPStatus.NO_CONTENT:  # it is over, and all of it was heard
                    return
                for sent in _sent(wire, response):
                    event = Event(sent.event, sent.id, wire.parsed(Task, sent.data))
                    yield event
                    if event.task.is_final:
                        return
                    if event.id and event.id != last_id:
                        fruitless, last_id = 0, event.id
        except (ServiceUnreachable, ServiceFailed) as lost:
            if not wire.may_pass(lost):
                raise
            error = lost
        fruitless = 0 if monotonic() - began_s > _STOOD_S else fruitless + 1
        if fruitless >= wire.patience.attempts:
            raise error
        wire.pause(max(1, fruitless))


def _headers(last_id: str | None) -> dict[str, str]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    return headers | {"Last-Event-ID": last_id} if last_id else headers


def _sent(wire: Wire, response: httpx.Response) -> Iterator[ServerSentEvent]:
    try:
        # A comment (the ping) comes out as an event without data once an id was seen.
        yield from (sent for sent in EventSource(response).iter_sse() if sent.data)
    except httpx.TransportError as error:
        raise ServiceUnreachable(wire.base_url, str(error) or type(error).__name__) from error
