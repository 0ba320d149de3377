"""The routes of the two old clients, gary4web and gary-on-the-fly, on one base URL.

Only three statuses may reach them: both poll for ever on a word that they do not know.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncIterator
from typing import Annotated, Any

from bson import ObjectId, json_util
from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from gary.api.schemas import CombineBody, ContinueBody, CropBody, ExportBody, GenerateBody, decode_base64
from gary.api.services import Services
from gary.errors import InvalidInput
from gary.links import parse_link
from gary.tasks.task import ContinueJob, GenerateJob, Sampling, Status, Task

GENERATE_SAMPLING = Sampling(top_k=150, cfg_coef=5.0)
CONTINUE_SAMPLING = Sampling(top_k=250, cfg_coef=3.0)
GENERATE_DESCRIPTION = "drums, percussion"

TaskId = Annotated[str, Path(description="24 hexadecimal digits")]


def legacy_routes(services: Services) -> APIRouter:
    """The old contract over `services`."""
    routes = APIRouter()

    @routes.post("/generate")
    async def generate(body: GenerateBody) -> dict[str, str]:
        """Continues what plays at a URL."""
        return {"task_id": await _accept_generate(services, body)}

    @routes.post("/continue")
    async def continue_(body: ContinueBody) -> dict[str, str]:
        """Continues a clip; the task keeps its id."""
        return {"task_id": await _accept_continue(services, body)}

    @routes.get("/tasks/{task_id}")
    async def task(task_id: TaskId) -> Response:
        """The task as MongoDB extended JSON, its audio as base64 once it is completed."""
        found = await services.store.get(task_id)
        return await _with_audio(services, found, _document(found))

    @routes.get("/fetch-result/{task_id}")
    async def fetch_result(task_id: TaskId) -> Response:
        """The status, and the audio as base64 once there is some."""
        found = await services.store.get(task_id)
        return await _with_audio(services, found, {"status": _old_status(found), **_failure(found)})

    @routes.get("/progress/{task_id}")
    async def progress(task_id: TaskId) -> dict[str, float]:
        """Per cent of the frames that exist."""
        found = await services.store.get(task_id)
        return {"progress": round(100 * found.progress, 1)}

    @routes.get("/health")
    async def health() -> JSONResponse:
        """Which parts answer; 503 where one does not."""
        state = await services.health()
        words = {part: _live(up) for part, up in vars(state).items()}
        return JSONResponse({**words, "status": _live(state.live)}, 200 if state.live else 503)

    @routes.post("/crop-audio", response_class=PlainTextResponse)
    async def crop_audio(body: CropBody) -> PlainTextResponse:
        """A stretch of a clip, as the base64 of an MP3."""
        if body.end_s <= body.start_s:
            raise InvalidInput(f"end is {body.end_s:g} s and start {body.start_s:g} s; end must come after start")
        data = await _decoded(body.audio, "audioData")
        return await _base64(await services.audio.crop(data, body.start_s, body.end_s))

    @routes.post("/combine-audio", response_class=PlainTextResponse)
    async def combine_audio(body: CombineBody) -> PlainTextResponse:
        """Clips joined in order, as the base64 of an MP3."""
        if len(body.clips) > services.limits.clips:
            raise InvalidInput(f"{len(body.clips)} clips were sent; at most {services.limits.clips} are joined at once")
        clips = [await _decoded(clip, f"audioClips.{index}") for index, clip in enumerate(body.clips)]
        return await _base64(await services.audio.join(clips))

    @routes.post("/export-to-mp3", response_class=PlainTextResponse)
    async def export_to_mp3(body: ExportBody) -> PlainTextResponse:
        """A clip as the base64 of an MP3."""
        return await _base64(await services.audio.to_mp3(await _decoded(body.audio, "audioData")))

    return routes


async def _accept_generate(services: Services, body: GenerateBody) -> str:
    model = services.model(body.model)
    min_s, max_s = body.range_s(services.limits.output_max_s)
    link = parse_link(body.url, services.sources.allow_direct_urls)
    job = GenerateJob(
        url=body.url,
        link=link.url,
        site=link.site,
        start_s=body.start_s,
        model=model.name,
        prompt_s=body.prompt_s,
        min_s=min_s,
        max_s=max_s,
        description=model.description or GENERATE_DESCRIPTION,
        seed=services.new_seed(),
        sampling=GENERATE_SAMPLING,
    )
    task_id = await services.store.create(job)
    services.begin(task_id)
    return task_id


async def _accept_continue(services: Services, body: ContinueBody) -> str:
    """Everything is checked before the task is touched: a bad request leaves it as it was."""
    model = services.model(body.model)
    length_s = services.limits.output_max_s
    if body.prompt_s >= length_s:
        raise InvalidInput(f"prompt_duration is {body.prompt_s:g} s; it must be less than {length_s:g} s")
    before = await services.store.get(body.task_id)
    data = await _decoded(body.audio, "audio")
    await services.audio.probe(data)
    job = ContinueJob(
        url=before.job.url,
        start_s=before.job.start_s,
        model=model.name,
        prompt_s=body.prompt_s,
        length_s=length_s,
        description=model.description,
        seed=services.new_seed(),
        sampling=CONTINUE_SAMPLING,
    )
    await services.store.restart(body.task_id, job, data)
    services.begin(body.task_id)
    return body.task_id


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


async def _decoded(text: str, field: str) -> bytes:
    """100 MB take a while: not on the event loop."""
    return await asyncio.to_thread(decode_base64, text, field)


async def _base64(data: bytes) -> PlainTextResponse:
    return PlainTextResponse(await asyncio.to_thread(base64.b64encode, data))


def _live(up: bool) -> str:
    return "live" if up else "down"
