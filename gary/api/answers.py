"""What the routes answer, for the OpenAPI description and for whoever reads it. Nothing here is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Word = Literal["live", "down"]
TaskId = Annotated[str, Field(pattern="^[0-9a-f]{24}$")]


class Answer(BaseModel):
    """Base of all answers; more keys may come."""

    model_config = ConfigDict(extra="allow")


class Error(Answer):
    """Every answer that is an error."""

    error: Annotated[str, Field(description="a sentence: what was wrong with which value, and what would be right")]
    code: Annotated[str, Field(description="a stable word for programs")]


class Accepted(Answer):
    task_id: TaskId


class ObjectIdJson(Answer):
    oid: Annotated[TaskId, Field(alias="$oid")]


class DateJson(Answer):
    date_ms: Annotated[int, Field(alias="$date", description="milliseconds since 1970")]


class Outcome(Answer):
    """Where a task stands; its audio once it is completed, the reason once it is failed."""

    status: Literal["pending", "completed", "failed"]
    audio: Annotated[str, Field(default="", description="base64 of 16-bit PCM WAV")]
    error: Annotated[str, Field(default="")]
    code: Annotated[str, Field(default="")]


class TaskDocument(Outcome):
    """A task as MongoDB extended JSON, with what was found out about it (tempo_bpm, bars, duration_s, ...)."""

    id: Annotated[ObjectIdJson, Field(alias="_id")]
    youtube_url: str
    timestamp: Annotated[float, Field(description="where in the linked audio the prompt begins, in seconds")]
    model: str
    created_at: DateJson


class ProgressAnswer(Answer):
    progress: Annotated[float, Field(ge=0, le=100, description="per cent of the frames that exist")]


class QueueAnswer(Answer):
    queued: Annotated[int, Field(ge=0, description="tasks that wait")]
    working: Annotated[int, Field(ge=0, description="tasks that are worked on")]
    oldest_waiting_s: Annotated[float | None, Field(description="null where none waits")]
    finished_per_minute: Annotated[float | None, Field(description="lately; null where none was")]


class ModelAnswer(Answer):
    size: str
    replicas_ready: Annotated[int, Field(ge=0, description="replicas that passed their latest health check")]


class HealthAnswer(Answer):
    """`status` is live where every part is."""

    mongodb: Word
    pytorch: Word
    ray: Word
    status: Word
    queue: Annotated[QueueAnswer | None, Field(description="null where the database does not answer")]
    models: Annotated[dict[str, ModelAnswer], Field(description="by the name that clients send")]


_REASONS = {
    400: "Input that cannot be served",
    401: "No API key, or an unknown one; asked for only where the service lists keys",
    404: "No task has this id",
    413: "More than a limit of the service",
    422: "The Idempotency-Key came with another request before",
    429: "Too many requests, or too many tasks wait",
    500: "The service failed",
    503: "A part of the service does not answer at present",
}
_SECONDS_HEADER = {"description": "seconds", "required": True, "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"}}
_HEADERS = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    429: {"Retry-After": _SECONDS_HEADER},
    503: {"Retry-After": _SECONDS_HEADER},
}

Responses = dict[int | str, dict[str, Any]]


def error_responses(model: type[BaseModel] = Error, more: Mapping[int, str] | None = None) -> Responses:
    """All errors that a route may answer, each with one schema.

    Args:
        more: statuses beside the usual ones, and when they are answered.
    """
    return {
        status: {"model": model, "description": reason, "headers": _HEADERS.get(status, {})}
        for status, reason in {**_REASONS, **(more or {})}.items()
    }


def mp3_response() -> Responses:
    """The 200 of the routes that answer audio as text."""
    schema = {"type": "string", "description": "base64 of an MP3"}
    return {200: {"description": "MP3", "content": {"text/plain": {"schema": schema}}}}
