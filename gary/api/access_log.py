"""One line a request: who asked what, how it was answered, how long it took. Never a URL, a header or a body."""

from __future__ import annotations

import logging
from time import monotonic

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gary.api.access import Caller
from gary.api.errors import route_pattern
from gary.logs import note_task

_log = logging.getLogger(__name__)


class AccessLog:
    """Middleware, around the doors, so that refusals are logged too.

    A request whose client went away before it was answered has no status.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, method = monotonic(), scope["method"]
        status: int | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            note_task(scope.get("path_params", {}).get("task_id", ""))
            caller: Caller | None = scope.get("state", {}).get("caller")
            facts = {
                "method": method,
                "path": route_pattern(scope),
                "status": status,
                "duration_s": round(monotonic() - began_s, 4),
                "client": caller.address if caller else (scope.get("client") or (None,))[0],
                "holder": caller.holder if caller else None,
            }
            _log.info("answered", extra=facts)
