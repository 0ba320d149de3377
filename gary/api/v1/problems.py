"""Errors of /v1 as problem details (RFC 9457), and what each code means. A code, once here, keeps its meaning.

The same codes stand in the errors of tasks that failed.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, Field
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"

# Of what a client sent.
_REQUEST = {
    "invalid_input": "A value is missing, malformed or out of range",
    "bad_request": "The request cannot be served",
    "not_json": "The body is not JSON",
    "json_too_complex": "The JSON holds too many values",
    "json_too_deep": "The JSON is nested too deep",
    "bad_multipart": "The multipart body is broken, or has other parts than those that are meant",
    "no_upload": "The source is an upload, and no file came with the request",
    "unexpected_upload": "A file came with a request whose source is no upload",
    "body_too_large": "The body is larger than the service takes",
    "too_large": "More than a limit of the service",
    "malformed_id": "This is no task id",
    "unknown_task": "No task has this id",
    "unknown_route": "There is nothing at this address",
    "method_not_allowed": "This address does not know the method",
    "unknown_model": "This model is not served here",
    "unsupported_url": "Links of this kind are not served",
    "bad_side": "The prompt cannot be taken from this side of the source",
    "unknown_take": "The task has no such take",
    "bad_range": "A range of seconds that cannot be cut",
    "empty_range": "A range of seconds without a sample",
    "past_end": "The start lies at or beyond the end",
    "prompt_too_long": "The prompt is longer than the service takes",
    "music_too_long": "More new music than the service makes at once",
    "live_is_wav": "Live audio comes as WAV alone",
    "seed_too_large": "The seeds of all takes must stay below 2**53",
    "range_not_satisfiable": "The byte range lies beyond the file's end",
    "unauthorized": "No API key, or one that is not known here",
    "key_in_url": "An API key belongs in a header, not in a URL",
    "rate_limited": "Too many requests, or the far site serves no more for the moment",
    "queue_full": "As many tasks wait as may",
    "idempotency_mismatch": "The Idempotency-Key came with another request before",
    "conflict": "Not in the state that the task is in",
    "not_ready": "The task has no audio yet",
    "task_failed": "The task failed and has no audio",
    "task_cancelled": "The task was cancelled and has no audio",
    "unfinished": "The task is not finished",
    "finished": "The task is finished",
    "has_unfinished_children": "A task that goes on from this one is not finished",
}
# Of audio that came in.
_AUDIO = {
    "empty": "The audio is empty",
    "empty_audio": "The audio is empty",
    "not_base64": "The audio is not base64",
    "not_audio": "The bytes are no audio that can be decoded",
    "no_audio": "The file holds no audio stream",
    "too_short": "The audio is too short",
    "too_long": "The audio is longer than the service takes",
    "too_costly": "Decoding the audio costs more than one file may",
    "unsupported_rate": "The sample rate is not served",
    "unsupported_channels": "The number of channels is not served",
    "no_clips": "There is nothing to join",
    "too_many_clips": "More clips than are joined at once",
}
# Of links, when they are fetched.
_SOURCE = {
    "bot_check": "The site asks for proof that the service is no robot",
    "geo": "The link is blocked where the service stands",
    "age": "The link is for viewers who have proved their age",
    "private": "The link is private, for members or behind a payment",
    "removed": "There is nothing at the link",
    "live": "The link is a live stream or a premiere",
    "unsupported": "There is no audio at the link that can be fetched",
    "timeout": "It did not get done in time",
    "upstream": "The far site did not give the audio",
    "source_gone": "The task that this one goes on from is no longer there",
}
# Of the service itself.
_SERVICE = {
    "internal": "The service failed",
    "unavailable": "A part of the service does not answer at present",
    "database_unavailable": "The database does not answer at present",
    "database_refused": "The database refuses the service",
    "audio_gone": "The audio was replaced or has expired",
    "disk_full": "The service has no room on its disk at present",
    "device_failed": "The model's device failed",
    "model_away": "No replica has the model at present",
    "replica_lost": "A part of the service was lost while it worked",
    "stalled": "The model made nothing for too long",
    "attempts_exhausted": "The task was tried as often as it may be",
    "lease_lost": "Another worker has taken the task over",
    "aborted": "The request was given up on purpose",
    "fatal": "The service cannot do this",
    "checkpoint": "A checkpoint is missing or malformed",
    "tool_missing": "A program that the service needs is not installed",
    "encode_failed": "The audio could not be encoded",
    "cannot_confine": "The decoder cannot be confined on this machine",
    "no_process": "No process can be started at present",
    "no_temporary_file": "The service can make no temporary file at present",
    "cookie_file": "The downloader's cookies cannot be read",
    "task_shape": "Another version of the service wrote the task",
    "illegal_transition": "The task cannot go from its state to that one",
    "not_codes": "The bytes are no codes of music",
    "other_codec": "The codes belong to another codec",
}
GROUPS = {
    "Requests": _REQUEST,
    "Audio": _AUDIO,
    "Links": _SOURCE,
    "The service": _SERVICE,
}
TITLES = {code: title for group in GROUPS.values() for code, title in group.items()}


class Finding(BaseModel):
    """What is wrong with one field."""

    field: Annotated[str, Field(description="its place in the request, such as `length.seconds`")]
    message: str


class Problem(BaseModel):
    """Every error of /v1 (RFC 9457)."""

    type: Annotated[str, Field(description="where the code is explained", examples=["/docs/errors#unknown_model"])]
    title: Annotated[str, Field(description="of the code; the same each time")]
    status: Annotated[int, Field(ge=400, le=599, description="as the answer's own")]
    detail: Annotated[str, Field(description="a sentence: what was wrong this time, and what would be right")]
    code: Annotated[str, Field(description="a stable word for programs")]
    errors: Annotated[list[Finding] | None, Field(description="of a request that is malformed: each place")] = None


def problem_answer(
    status: int, message: str, code: str, headers: dict[str, str] | None = None, findings: tuple[Finding, ...] = ()
) -> Response:
    """An error as it is sent."""
    problem = Problem(
        type=f"/docs/errors#{code}",
        title=TITLES.get(code) or HTTPStatus(status).phrase,
        status=status,
        detail=message,
        code=code,
        errors=list(findings) or None,
    )
    return Response(problem.model_dump_json(exclude_none=True), status, headers, MEDIA_TYPE)
