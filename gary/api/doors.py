"""What stands before every route: who is let in, and what every answer carries. ASGI; no body is read here."""

from __future__ import annotations

import logging
import re
from urllib.parse import parse_qsl
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gary.api.access import Caller, KeyRing, ProxyChain, RateLimits
from gary.api.errors import error_answer
from gary.api.paths import is_open, is_v1
from gary.config import AccessConfig
from gary.errors import ClientError, InvalidInput

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_URL_PARTS_MAX = 64
_V1_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",  # of whoever opens an answer as a page
    "Referrer-Policy": "no-referrer",
}
_log = logging.getLogger(__name__)


class Doors:
    """Middleware. Lets in who shows a known key, where keys are listed, and has POSTs left; others get 401 or 429.

    A handler behind it finds the `Caller` as `request.state.caller`. An address is counted before its key is looked
    at, so that guesses are limited as well.
    """

    def __init__(self, app: ASGIApp, access: AccessConfig) -> None:
        self._app = app
        self._keys = KeyRing(access.api_keys)
        self._proxies = ProxyChain(access.trusted_proxies)
        self._rates = RateLimits(access)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        address = self._proxies.client(
            (scope.get("client") or (None,))[0], ",".join(headers.getlist("x-forwarded-for"))
        )
        state = scope.setdefault("state", {})
        state["caller"] = Caller(address)  # for the log, of those who are refused
        try:
            state["caller"] = await self._admitted(scope, headers, address)
        except ClientError as error:
            _log.info("%s of %s refused: %s", scope["method"], address, error.code)
            await error_answer(scope, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _admitted(self, scope: Scope, headers: Headers, address: str) -> Caller:
        """Raises Unauthorized, TooManyRequests, InvalidInput (code `key_in_url`)."""
        is_post = scope["method"] == "POST"
        if is_post:
            await self._rates.count_address(address)
        if not self._keys:
            return Caller(address)
        self._check_url(scope)
        if is_open(scope):
            return Caller(address)
        holder = self._keys.holder(headers.get("authorization"), headers.get("x-api-key"))
        if is_post:
            await self._rates.count_holder(holder)
        return Caller(address, holder)

    def _check_url(self, scope: Scope) -> None:
        """A key in a URL would be shown by the errors that quote it, and logged by whatever passes it on."""
        query = scope.get("query_string", b"").decode("latin-1")
        pairs = parse_qsl(query, keep_blank_values=True)
        parts = [*scope["path"].split("/"), *(part for pair in pairs for part in pair)]
        if any(self._keys.find(part) for part in parts[:_URL_PARTS_MAX]):
            raise InvalidInput(
                "an API key belongs in a header; one in a URL is logged on its way: replace it", "key_in_url"
            )


class Envelope:
    """Middleware. Every answer says what it is and which request it answers; HEAD is answered as GET, without a body.

    Args:
        adds_request_id: whether answers get X-Request-Id here; the server before us may add it itself.
    """

    def __init__(self, app: ASGIApp, adds_request_id: bool) -> None:
        self._app = app
        self._adds_request_id = adds_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"
        if is_head:
            scope["method"] = "GET"
            scope.setdefault("state", {})["is_head"] = True  # for those whose answer has no end
        defaults = _V1_HEADERS if is_v1(scope) else {}
        request_id = _request_id(scope)

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                for name, value in defaults.items():
                    headers.setdefault(name, value)
                if self._adds_request_id:
                    headers["X-Request-Id"] = request_id
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app(scope, receive, stamped)


def _request_id(scope: Scope) -> str:
    """The client's or the proxy's own, where it is a plain word of at most 128 characters; else a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex
