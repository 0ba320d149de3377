"""The routes of the two old clients, gary4web and gary-on-the-fly, on one base URL.

Only three statuses may reach them: both poll for ever on a word that they do not know.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

from bson import ObjectId, json_util
from fastapi import APIRouter
from fastapi.params import Depends as DependsParam
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from gary.api.accept import accept_continue, accept_generate, decoded
from gary.api.answers import (
    Accepted,
    HealthAnswer,
    Outcome,
    ProgressAnswer,
    TaskDocument,
    error_responses,
    mp3_response,
)
from gary.api.json_body import JsonRoute
from gary.api.params import CallerParam, IdempotencyKey, TaskId
from gary.api.schemas import (
    CombineBody,
    ContinueBody,
    CropBody,
    ExportBody,
    GenerateBody,
)
from gary.api.services import Health, Services
from gary.errors import InvalidInput
from gary.tasks.task import Status, Task


def legacy_routes(services: Services, keys: Sequence[DependsParam] = ()) -> APIRouter:
    """The old contract over `services`.

    Args:
        keys: describe what the doors ask for; /health is open.
    """
    routes = APIRouter()
    for part in (_task_routes(services, keys), _audio_routes(services, keys), _health_route(services)):
        routes.include_router(part)
    return routes


def _task_routes(services: Services, keys: Sequence[DependsParam]) -> APIRouter:
    routes = APIRouter(
        tags=["old clients"], route_class=JsonRoute, dependencies=list(keys), responses=error_responses()
    )

    @routes.post("/generate")
    async def generate(body: GenerateBody, caller: CallerParam, key: IdempotencyKey = None) -> Accepted:
        """Continues what plays at a URL."""
        return Accepted(task_id=await accept_generate(services, body, caller, key))

    @routes.post("/continue")
    async def continue_(body: ContinueBody, caller: CallerParam, key: IdempotencyKey = None) -> Accepted:
        """Continues a clip; the task keeps its id."""
        return Accepted(task_id=await accept_continue(services, body, caller, key))

    @routes.get("/tasks/{task_id}", response_model=TaskDocument)
    async def task(task_id: TaskId) -> Response:
        """The task as MongoDB extended JSON, its audio as base64 once it is completed."""
        found = await services.store.get(task_id)
        return await _with_audio(services, found, _document(found))

    @routes.get("/fetch-result/{task_id}", response_model=Outcome)
    async def fetch_result(task_id: TaskId) -> Response:
        """The status, and the audio as base64 once there is some."""
        found = await services.store.get(task_id)
        return await _with_audio(services, found, {"status": _old_status(found), **_failure(found)})

    @routes.get("/progress/{task_id}")
    async def progress(task_id: TaskId) -> ProgressAnswer:
        """Per cent of the frames that exist."""
        found = await services.store.get(task_id)
        return ProgressAnswer(progress=round(100 * found.progress, 1))

    return routes


def _audio_routes(services: Services, keys: Sequence[DependsParam]) -> APIRouter:
    # a response class without a media type, else the errors would be described as text too
    routes = APIRouter(
        tags=["old clients"],
        route_class=JsonRoute,
        dependencies=list(keys),
        default_response_class=Response,
        responses={**error_responses(), **mp3_response()},
    )

    @routes.post("/crop-audio")
    async def crop_audio(body: CropBody) -> Response:
        """A stretch of a clip, as the base64 of an MP3."""
        if body.end_s <= body.start_s:
            raise InvalidInput(f"end is {body.end_s:g} s and start {body.start_s:g} s; end must come after start")
        data = await decoded(body.audio, "audioData")
        return await _base64(await services.audio.crop(data, body.start_s, body.end_s))

    @routes.post("/combine-audio")
    async def combine_audio(body: CombineBody) -> Response:
        """Clips joined in order, as the base64 of an MP3."""
        clips_max = services.limits.clips
        if len(body.clips) > clips_max:
            sent = len(body.clips)
            raise InvalidInput(f"{sent} clips were sent; at most {clips_max} are joined at once", "too_many_clips")
        clips = [await decoded(clip, f"audioClips.{index}") for index, clip in enumerate(body.clips)]
        return await _base64(await services.audio.join(clips))

    @routes.post("/export-to-mp3")
    async def export_to_mp3(body: ExportBody) -> Response:
        """A clip as the base64 of an MP3."""
        return await _base64(await services.audio.to_mp3(await decoded(body.audio, "audioData")))

    return routes


def _health_route(services: Services) -> APIRouter:
    routes = APIRouter(tags=["service"])

    @routes.get("/health", response_model=HealthAnswer, responses={503: {"model": HealthAnswer}})
    async def health() -> JSONResponse:
        """Which parts answer, how long the queue is, and who is ready; 503 where a part does not answer."""
        state = await services.health()
        return JSONResponse(_health(services, state), 200 if state.live else 503)

    return routes


def _health(services: Services, state: Health) -> dict[str, Any]:
    words = {"mongodb": state.mongodb, "pytorch": state.pytorch, "ray": state.ray, "status": state.live}
    return {
        **{part: "live" if up else "down" for part, up in words.items()},
        "queue": state.queue.model_dump() if state.queue is not None else None,
        "models": {
            model.name: {"size": model.size, "replicas_ready": state.ready.get(model.size, 0)}
            for model in services.models
        },
    }


def _old_status(task: Task) -> str:
    match task.status:
        case Status.COMPLETED:
            return "completed"
        case Status.FAILED | Status.CANCELLED:
            return "failed"
        case _:
            return "pending"


def _document(task: Task) -> dict[str, Any]:
    """The task as the old database showed it, its audio apart."""
    job = task.job
    document = {
        "_id": ObjectId(task.id),
        "status": _old_status(task),
        "youtube_url": job.url,
        "timestamp": job.start_s,
        "model": job.model,
        "created_at": task.created_at,
        **task.facts,
    }
    return {**document, **_failure(task)}


def _failure(task: Task) -> dict[str, str]:
    if task.status == Status.CANCELLED:
        return {"error": "the task was cancelled", "code": "cancelled"}
    return {"error": task.error.message, "code": task.error.code} if task.error else {}


async def _with_audio(services: Services, task: Task, document: dict[str, Any]) -> Response:
    """`document` as extended JSON; a completed task's audio is streamed into it, never whole in memory."""
    head = json_util.dumps(document, json_options=json_util.LEGACY_JSON_OPTIONS)
    if task.status != Status.COMPLETED:
        return Response(head, media_type="application/json")
    size_bytes, chunks = await services.store.open_audio(task)
    opening, closing = head.removesuffix("}") + ', "audio": "', '"}'
    length_bytes = len(opening.encode()) + 4 * math.ceil(size_bytes / 3) + len(closing)
    return StreamingResponse(
        _quoted(opening, chunks, closing), media_type="application/json", headers={"Content-Length": str(length_bytes)}
    )


async def _quoted(opening: str, chunks: AsyncIterator[bytes], closing: str) -> AsyncIterator[bytes]:
    """Base64 of the chunks joined, between two strings; three bytes make four characters, so a rest is carried over."""
    yield opening.encode()
    rest = b""
    async for chunk in chunks:
        rest += chunk
        whole = len(rest) - len(rest) % 3
        yield base64.b64encode(rest[:whole])
        rest = rest[whole:]
    yield base64.b64encode(rest) + closing.encode()


async def _base64(data: bytes) -> PlainTextResponse:
    return PlainTextResponse(await asyncio.to_thread(base64.b64encode, data))
