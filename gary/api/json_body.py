"""JSON bodies, parsed within bounds and off the event loop.

What the parser makes of a body is bounded before it is made: a few bytes of nested brackets or empty lists become
twenty times as much memory, while the base64 of a clip holds none of the characters that structure is written in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

from gary.api.errors import Refused
from gary.errors import InvalidInput

STRUCTURE_MAX = 20_000  # opening brackets, opening braces and commas
DEPTH_MAX = 32
_INLINE_BYTES = 64 * 1024  # smaller bodies are parsed faster than a thread is asked


class JsonRoute(APIRoute):
    """A route whose body is read by `parse_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def with_bounds(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return with_bounds


class _JsonRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        try:
            return parse_json(body) if len(body) <= _INLINE_BYTES else await asyncio.to_thread(parse_json, body)
        except InvalidInput as error:
            raise Refused(error) from error


def parse_json(body: bytes) -> Any:
    """The value of a JSON text in UTF-8 (RFC 8259): numbers are finite, nesting and size of structure bounded.

    Raises:
        InvalidInput: not_json, json_too_complex, json_too_deep.
    """
    if sum(body.count(character) for character in (b"[", b"{", b",")) > STRUCTURE_MAX:
        raise InvalidInput(f"the body has more than {STRUCTURE_MAX} values", "json_too_complex")
    try:
        value = json.loads(str(body, "utf-8-sig"), parse_constant=_no_number)
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:  # bad UTF-8, bad JSON, or an integer of thousands of digits
        raise InvalidInput("the body is not JSON", "not_json") from error
    if _depth(value) > DEPTH_MAX:
        raise _too_deep()
    return value


def _too_deep() -> InvalidInput:
    return InvalidInput(f"the body is nested deeper than {DEPTH_MAX} levels", "json_too_deep")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _depth(value: Any) -> int:
    """How many containers enclose the innermost value."""
    depth, level = 0, [value]
    while True:
        inner: list[Any] = []
        found = False
        for item in level:
            if isinstance(item, dict):
                found = True
                inner += item.values()
            elif isinstance(item, list):
                found = True
                inner += item
        if not found:
            return depth
        depth, level = depth + 1, inner
