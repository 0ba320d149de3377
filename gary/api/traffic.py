"""How much audio goes out, and who listens at present, as plain numbers: whoever watches over the house reads them."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(eq=False)
class Traffic:
    """Of one process, since its start.

    Attributes:
        file_bytes, live_bytes: of answers that are audio; audio within JSON is not counted.
        live, events: answers under way that go on while a task does: its music, its events.
    """

    file_bytes: int = 0
    live_bytes: int = 0
    live: int = 0
    events: int = 0


class Count:
    """Middleware: looks at what kind each answer is, and counts its bytes as they go."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_live = b"live=1" in scope["query_string"].split(b"&")
        answer = _Answer(self._traffic, is_live)

        async def counted(message: Message) -> None:
            answer.look_at(message)
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            answer.end()


class _Answer:
    """One answer on its way; of which kind it is, its first message tells."""

    def __init__(self, traffic: Traffic, is_live: bool) -> None:
        self._traffic = traffic
        self._is_live = is_live
        self._is_audio = self._is_events = False

    def look_at(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(Headers(raw=message["headers"]).get("content-type", ""))
        elif self._is_audio:
            size_bytes = len(message.get("body", b""))
            if self._is_live:
                self._traffic.live_bytes += size_bytes
            else:
                self._traffic.file_bytes += size_bytes

    def _begin(self, content_type: str) -> None:
        self._is_audio = content_type.startswith("audio/")
        self._is_events = content_type.startswith("text/event-stream")
        self._traffic.events += self._is_events
        self._traffic.live += self._is_audio and self._is_live

    def end(self) -> None:
        self._traffic.events -= self._is_events
        self._traffic.live -= self._is_audio and self._is_live
