"""Every failure in the form that its route promises: our own tree, FastAPI's validation, unknown routes, bugs.

Below /v1 that is problem details, elsewhere the old clients' `{"error": sentence, "code": word}`.
What is logged of a request is its method and its route's pattern, never its URL.
"""

from __future__ import annotations

import logging
import math
import reprlib

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gary.api.paths import is_v1
from gary.api.v1.problems import Finding, problem_answer
from gary.errors import ClientError, GaryError, RecoverableError, TooManyRequests, Unauthorized

_log = logging.getLogger(__name__)
_CODES = {404: "unknown_route", 405: "method_not_allowed", 413: "body_too_large"}
_RETRY_UNAVAILABLE_S = 5
_SHOWN_CHARACTERS = 80
_SENTENCES_MAX = 5
_FINDINGS_MAX = 20


class Refused(HTTPException):
    """One of our errors in the only dress in which FastAPI lets it through while a body is read."""

    def __init__(self, error: ClientError) -> None:
        super().__init__(error.http_status, error.message)
        self.error = error


def install_error_handlers(app: FastAPI) -> None:
    """Makes `app` answer every error in the form of the route that it came from."""
    app.add_exception_handler(GaryError, _ours)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)


def error_answer(scope: Scope, error: GaryError) -> Response:
    """The answer that an error of ours is, with the headers that its status asks for."""
    headers = {}
    match error:
        case Unauthorized():
            headers["WWW-Authenticate"] = 'Bearer realm="gary"'
        case TooManyRequests():
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        case RecoverableError():
            headers["Retry-After"] = str(_RETRY_UNAVAILABLE_S)
    return _answer(scope, error.http_status, error.message, error.code, headers)


class LastResort:
    """Middleware. What nobody foresaw is logged and answered with 500, inside of what puts headers on answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if started or scope["type"] != "http":
                raise  # half an answer is out; the server breaks the connection, so that nobody takes it for whole
            _log.error("%s %s failed", scope["method"], route_pattern(scope), exc_info=error)
            answer = _answer(scope, 500, "the service failed; the fault is ours and has been logged", "internal")
            await answer(scope, receive, send)


def _answer(
    scope: Scope,
    status: int,
    message: str,
    code: str,
    headers: dict[str, str] | None = None,
    findings: tuple[Finding, ...] = (),
) -> Response:
    if is_v1(scope):
        return problem_answer(status, message, code, headers, findings)
    return JSONResponse({"error": message, "code": code}, status, headers)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, GaryError)
    if error.http_status >= 500:
        _log.error("%s %s: %s", request.method, route_pattern(request.scope), error, exc_info=error)
    return error_answer(request.scope, error)


async def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    sentence = "; ".join(_sentence(item) for item in found[:_SENTENCES_MAX])
    findings = tuple(Finding(field=_place(item), message=_complaint(item)) for item in found[:_FINDINGS_MAX])
    return _answer(request.scope, 400, sentence, "invalid_input", None, findings)


def _place(item: dict[str, object]) -> str:
    location = item["loc"]
    assert isinstance(location, tuple)
    return ".".join(str(part)[:_SHOWN_CHARACTERS] for part in location[1:])


def _complaint(item: dict[str, object]) -> str:
    """What, and the value as far as it is short."""
    return "is missing" if item["type"] == "missing" else f"{item['msg']} (given: {_shown(item.get('input'))})"


def _sentence(item: dict[str, object]) -> str:
    """One of pydantic's findings: where, and what."""
    where = _place(item) or "the body"
    return f"{where} is missing" if item["type"] == "missing" else f"{where}: {_complaint(item)}"


def _shown(value: object) -> str:
    """A value as far as it is short; it may be a whole body, of which no copy is to be made."""
    if isinstance(value, str | bytes) and len(value) > _SHOWN_CHARACTERS:
        return f"{value[:_SHOWN_CHARACTERS]!r}, {len(value)} long"
    return reprlib.repr(value)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refused):
        return error_answer(request.scope, error.error)
    answer = _answer(request.scope, error.status_code, str(error.detail), _CODES.get(error.status_code, "bad_request"))
    answer.headers.update(error.headers or {})
    if "allow" in answer.headers:
        answer.headers["allow"] = _allowed(request, answer.headers["allow"])
    return answer


def _allowed(request: Request, methods: str) -> str:
    """What may be asked of this address. The framework names the methods of the first route that has its pattern."""
    assert isinstance(request.app, FastAPI)
    described = request.app.openapi()["paths"].get(route_pattern(request.scope), {})
    known = {verb.upper() for verb in described} or set(methods.split(", "))
    return ", ".join(sorted(known | {"HEAD"} if "GET" in known else known))


def route_pattern(scope: Scope) -> str:
    """The pattern of the route that was found, such as /tasks/{task_id}."""
    return str(getattr(scope.get("route"), "path", "(no route)"))
