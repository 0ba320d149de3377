"""Multipart bodies (RFC 7578): the parts that are meant, in bounds, and no others.

The whole body is bounded before it comes here (`gary.api.body_limit`). While a file arrives it lies on disk, however
slow its sender is; the one copy in memory is made when all of it is there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from starlette.datastructures import FormData, MutableHeaders, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message

from gary.api.json_body import JsonRoute
from gary.api.v1.schemas import NAME_MAX
from gary.errors import InvalidInput, RecoverableError

TASK_PART_MAX_BYTES = 64 * 1024
_MULTIPART = "multipart/form-data"


@dataclass(frozen=True)
class Upload:
    """A file as it came.

    Attributes:
        name: fit to be shown.
    """

    data: bytes
    name: str | None


class TaskRoute(JsonRoute):
    """A route whose JSON body may come as the part `task` beside a part `file`; that is `request.state.upload` then."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def with_upload(request: Request) -> Response:
            request.state.upload = None
            if _is_multipart(request):
                body, request.state.upload = await _task_and_file(request)
                request = _json_request(request, body)
            return await handle(request)

        return with_upload


async def read_files(request: Request, files_max: int) -> list[bytes]:
    """The parts `file` of a multipart body, in their order.

    Raises:
        InvalidInput: bad_multipart, too_many_clips.
    """
    if not _is_multipart(request):
        raise InvalidInput(f"send the files as parts `file` of {_MULTIPART}", "bad_multipart")
    async with _parts(request, files_max + 1) as parts:
        _refuse_others(parts, {"file"})
        files = [part for part in parts.getlist("file") if isinstance(part, UploadFile)]
        if len(files) != len(parts.multi_items()):
            raise InvalidInput("each part `file` has to have a file name", "bad_multipart")
        if len(files) > files_max:
            raise InvalidInput(f"more files were sent than {files_max}, which are joined at most", "too_many_clips")
        return [await file.read() for file in files]


def shown_name(name: str | None) -> str | None:
    """The last part of a file's path, without control characters, at most NAME_MAX characters; None where none is."""
    last = re.split(r"[/\\]", name or "")[-1]
    clean = "".join(character for character in last if unicodedata.category(character)[0] != "C").strip()
    return clean[:NAME_MAX] or None


def _is_multipart(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == _MULTIPART


async def _task_and_file(request: Request) -> tuple[bytes, Upload | None]:
    async with _parts(request, 2) as parts:
        _refuse_others(parts, {"task", "file"})
        tasks, files = parts.getlist("task"), parts.getlist("file")
        if len(tasks) != 1 or len(files) > 1:
            raise InvalidInput("send one part `task`, the JSON, and at most one part `file`", "bad_multipart")
        if files and not isinstance(files[0], UploadFile):
            raise InvalidInput("the part `file` has to have a file name", "bad_multipart")
        file = files[0] if files else None
        upload = Upload(await file.read(), shown_name(file.filename)) if isinstance(file, UploadFile) else None
        return await _text(tasks[0]), upload


@asynccontextmanager
async def _parts(request: Request, files_max: int) -> AsyncIterator[FormData]:
    """The parts of the body; their temporary files are gone afterwards."""
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=files_max, max_fields=1, max_part_size=TASK_PART_MAX_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidInput(f"the multipart body cannot be read: {error.message}", "bad_multipart") from error
    except OSError as error:
        raise RecoverableError("this machine has no room for temporary files", "disk_full") from error
    try:
        yield form
    finally:
        await form.close()


def _refuse_others(parts: FormData, known: set[str]) -> None:
    others = sorted(set(parts) - known)
    if others:
        raise InvalidInput(f"the part {others[0][:40]!r} is not known; {sorted(known)} are", "bad_multipart")


async def _text(part: UploadFile | str) -> bytes:
    """The JSON's bytes; browsers send a blob of a type as a file."""
    if isinstance(part, str):
        return part.encode("utf-8", "surrogatepass")  # what cannot be decoded is refused by the parser of JSON
    if (part.size or 0) > TASK_PART_MAX_BYTES:
        raise InvalidInput(f"the part `task` is over {TASK_PART_MAX_BYTES} bytes", "bad_multipart")
    return await part.read()


def _json_request(request: Request, body: bytes) -> Request:
    """The request as it would have come with `body` alone."""
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return await request.receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {**request.scope, "headers": list(request.scope["headers"])}
    MutableHeaders(raw=scope["headers"])["content-type"] = "application/json"
    return Request(scope, receive)
