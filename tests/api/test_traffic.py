"""What goes out as audio, counted on its way."""

from __future__ import annotations

import pytest
from starlette.types import Message, Receive, Scope, Send

from gary.api.traffic import Count, Traffic


class Answering:
    """Sends an answer of a kind, and keeps what the traffic was between its two parts."""

    def __init__(self, content_type: str, traffic: Traffic) -> None:
        self._content_type = content_type
        self._traffic = traffic
        self.meanwhile = (0, 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", self._content_type.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        self.meanwhile = (self._traffic.live, self._traffic.events)
        await send({"type": "http.response.body", "body": b"678"})


async def _ask(app: Count, query: bytes) -> None:
    async def receive() -> Message:
        raise AssertionError("nobody reads")

    async def send(message: Message) -> None:
        pass

    await app({"type": "http", "query_string": query}, receive, send)


@pytest.mark.parametrize(
    ("content_type", "query", "file_bytes", "live_bytes", "meanwhile"),
    [
        ("audio/wav", b"take=0", 8, 0, (0, 0)),
        ("audio/wav", b"take=0&live=1", 0, 8, (1, 0)),
        ("audio/mpeg", b"", 8, 0, (0, 0)),
        ("text/event-stream; charset=utf-8", b"", 0, 0, (0, 1)),
        ("application/problem+json", b"live=1", 0, 0, (0, 0)),
    ],
)
async def test_each_kind_of_answer(
    content_type: str, query: bytes, file_bytes: int, live_bytes: int, meanwhile: tuple[int, int]
) -> None:
    """Bytes of audio alone; whoever follows a task counts while the answer lasts and no longer."""
    traffic = Traffic()
    answering = Answering(content_type, traffic)
    await _ask(Count(answering, traffic), query)
    assert (traffic.file_bytes, traffic.live_bytes) == (file_bytes, live_bytes)
    assert answering.meanwhile == meanwhile
    assert (traffic.live, traffic.events) == (0, 0)


async def test_a_listener_that_goes_away_is_no_listener() -> None:
    """An answer that ends in an error, as one whose client is gone, is over too."""
    traffic = Traffic()

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"audio/wav")]})
        assert traffic.live == 1
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await _ask(Count(broken, traffic), b"live=1")
    assert traffic.live == 0
