"""Every failure as `{"error": sentence, "code": word}`: our own tree, FastAPI's validation, unknown routes."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from gary.errors import GaryError

_log = logging.getLogger(__name__)
_SHOWN_CHARACTERS = 80


def install_error_handlers(app: FastAPI) -> None:
    """Makes `app` answer every error in the old clients' form."""
    app.add_exception_handler(GaryError, _ours)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)


def _answer(status: int, message: str, code: str) -> JSONResponse:
    return JSONResponse({"error": message, "code": code}, status)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GaryError)
    if error.http_status >= 500:
        _log.error("%s %s: %s", request.method, request.url.path, error, exc_info=error)
    return _answer(error.http_status, error.message, error.code)


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _answer(400, "; ".join(_sentence(item) for item in error.errors()[:5]), "invalid_input")


def _sentence(item: dict[str, object]) -> str:
    """One of pydantic's findings: where, what, and the value as far as it is short."""
    if item["type"] == "json_invalid":
        return "the body is not JSON"
    location = item["loc"]
    assert isinstance(location, tuple)
    where = ".".join(str(part) for part in location[1:]) or "the body"
    if item["type"] == "missing":
        return f"{where} is missing"
    shown = repr(item.get("input"))
    given = f" (given: {shown})" if len(shown) <= _SHOWN_CHARACTERS else ""
    return f"{where}: {item['msg']}{given}"


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    answer = _answer(error.status_code, f"{request.method} {request.url.path}: {error.detail}", "http")
    answer.headers.update(error.headers or {})
    return answer


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _answer(500, "the service failed; the fault is ours and has been logged", "internal")
