"""Refuses bodies over the limit, by their declared length or, where none is declared, as they arrive."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gary.api.errors import Refused, error_answer
from gary.errors import TooLarge


class BodyLimit:
    """ASGI middleware. A handler behind it never sees more than `limit_bytes` of a body."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > self._limit_bytes:
            await error_answer(scope, self._error())(scope, receive, send)
            return
        received_bytes = 0

        async def counted() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._limit_bytes:
                raise Refused(self._error())
            return message

        await self._app(scope, counted, send)

    def _error(self) -> TooLarge:
        return TooLarge(f"the body is too large; at most {self._limit_bytes} bytes are taken", "body_too_large")
