"""Refuses bodies over the limit, by their declared length or, where none is declared, as they arrive."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._limit_bytes:
            await self._refuse(scope, receive, send)
            return
        received_bytes = 0

        async def counted() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._limit_bytes:
                # FastAPI hides what a body's reader raises behind a 400, HTTPException apart
                raise HTTPException(413, self._error().message)
            return message

        await self._app(scope, counted, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._error()
        response = JSONResponse({"error": error.message, "code": error.code}, error.http_status)
        await response(scope, receive, send)

    def _error(self) -> TooLarge:
        return TooLarge(f"the body is too large; at most {self._limit_bytes} bytes are taken", "body_too_large")
