"""What FastAPI cannot see by itself, for the OpenAPI description: bodies and answers that are not JSON."""

from __future__ import annotations

from typing import Any

from gary.api.answers import Responses
from gary.api.v1.answers import MEDIA_TYPES
from gary.api.v1.problems import MEDIA_TYPE

_BYTES = {"type": "string", "format": "binary"}
_TEXT = {"type": "string"}
_EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["state", "progress"]},
        "id": {"type": "string", "pattern": r"^[0-9]+\.[0-9]+$"},
        "data": {"type": "string", "contentMediaType": "application/json", "description": "a TaskAnswer"},
    },
    "required": ["event", "id", "data"],
}

TASK_OR_FILE_BODY: dict[str, Any] = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "task": {"$ref": "#/components/schemas/TaskBody"},
                        "file": {**_BYTES, "description": 'an audio file, for the source {"upload": true}'},
                    },
                    "required": ["task"],
                },
                "encoding": {"task": {"contentType": "application/json"}},
            }
        }
    }
}
AUDIO_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "an audio file's bytes",
        "content": {"audio/*": {"schema": _BYTES}, "application/octet-stream": {"schema": _BYTES}},
    }
}
FILES_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "array", "items": _BYTES, "minItems": 1}},
                    "required": ["file"],
                }
            }
        },
    }
}
EVENT_STREAM: Responses = {
    200: {
        "description": "`state` and `progress` events; the data is the task, the id what Last-Event-ID goes on from",
        "content": {"text/event-stream": {"schema": _EVENT}},
    },
    204: {"description": "The task is over, and Last-Event-ID says that this was heard"},
}


def audio_answer(description: str, status: int = 200, headers: dict[str, Any] | None = None) -> Responses:
    """Bytes of audio in any of the formats."""
    content = {media_type: {"schema": _BYTES} for media_type in MEDIA_TYPES.values()}
    return {status: {"description": description, "content": content, "headers": headers or {}}}


_FILE_HEADERS = {name: {"schema": _TEXT} for name in ("ETag", "Accept-Ranges", "Content-Disposition")}
AUDIO_ANSWERS: Responses = {
    **audio_answer("the file", headers=_FILE_HEADERS),
    **audio_answer("the range that was asked for", 206, {**_FILE_HEADERS, "Content-Range": {"schema": _TEXT}}),
    304: {"description": "What the client has, by If-None-Match, is current"},
}


ACCEPTED: Responses = {
    202: {"description": "The task", "headers": {"Location": {"required": True, "schema": _TEXT}}},
}


def corrected(schema: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's description, with the errors of /v1 under their own media type."""
    below_v1 = [operations for path, operations in schema["paths"].items() if path.startswith("/v1/")]
    for operation in (operation for operations in below_v1 for operation in operations.values()):
        for status, response in operation["responses"].items():
            content = response.get("content", {})
            if status.startswith(("4", "5")) and "application/json" in content:
                content[MEDIA_TYPE] = content.pop("application/json")
    return schema
