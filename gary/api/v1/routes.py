"""The routes of /v1: what each takes and answers. What they do is beside: accept, shown, events, audio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Depends, Header, Query, Request
from fastapi.params import Depends as DependsParam
from fastapi.responses import Response

from gary.api.answers import error_responses
from gary.api.params import CallerParam, IdempotencyKey, TaskId
from gary.api.services import Services
from gary.api.v1.accept import accept_task
from gary.api.v1.answers import MEDIA_TYPES, LimitsAnswer, ModelsAnswer, ModelShown, TaskAnswer
from gary.api.v1.audio import AudioShelf, Wanted
from gary.api.v1.describe import (
    ACCEPTED,
    AUDIO_ANSWERS,
    AUDIO_BODY,
    EVENT_STREAM,
    FILES_BODY,
    TASK_OR_FILE_BODY,
    audio_answer,
)
from gary.api.v1.events import Mark, events_of, has_heard_all
from gary.api.v1.problems import Problem
from gary.api.v1.schemas import SECONDS_MAX, ContinueTaskBody, TaskBody
from gary.api.v1.shown import path_of, shown
from gary.api.v1.uploads import TaskRoute, Upload, read_files
from gary.api.v1.watch import Watch
from gary.errors import Conflict
from gary.tasks.music import TAKES_MAX, Format, MusicJob
from gary.tasks.task import UNFINISHED, Place, Status, Task


def _upload(request: Request) -> Upload | None:
    """The file that came beside the JSON."""
    upload: Upload | None = request.state.upload
    return upload


UploadParam = Annotated[Upload | None, Depends(_upload)]
FormatParam = Annotated[Format, Query(alias="format", description="of the answer")]
StartParam = Annotated[float, Query(ge=0, le=SECONDS_MAX, allow_inf_nan=False, description="seconds")]
EndParam = Annotated[
    float | None, Query(gt=0, le=SECONDS_MAX, allow_inf_nan=False, description="seconds; by default the end")
]


def v1_routes(services: Services, keys: Sequence[DependsParam] = ()) -> APIRouter:
    """The API over `services`.

    Args:
        keys: describe what the doors ask for.
    """
    watch = Watch(services.store)
    # no prefix: a route's own path is what logs show
    routes = APIRouter(dependencies=list(keys))
    routes.include_router(_making(services))
    routes.include_router(_looking(services, watch))
    routes.include_router(_listening(services, AudioShelf(services, watch)))
    routes.include_router(_cutting(services))
    routes.include_router(_service(services))
    return routes


def _making(services: Services) -> APIRouter:
    routes = APIRouter(
        tags=["tasks"],
        route_class=TaskRoute,
        responses={**error_responses(Problem, {409: "The task to go on from has no audio"}), **ACCEPTED},
    )

    @routes.post("/v1/tasks", status_code=202, response_model=TaskAnswer, openapi_extra=TASK_OR_FILE_BODY)
    async def create(
        body: Annotated[TaskBody, Body()], upload: UploadParam, caller: CallerParam, key: IdempotencyKey = None
    ) -> Response:
        """New music after a prompt: of a link, of a file that comes with the request, or of an earlier task."""
        return await _accepted(services, await accept_task(services, body, upload, caller, key))

    @routes.post("/v1/tasks/{task_id}/continue", status_code=202, response_model=TaskAnswer)
    async def continue_(
        task_id: TaskId,
        body: Annotated[ContinueTaskBody, Body()],
        caller: CallerParam,
        key: IdempotencyKey = None,
    ) -> Response:
        """Goes on from a completed task, on the server: what came before stays as it is, bit for bit."""
        task = await services.store.get(task_id)
        return await _accepted(services, await accept_task(services, body.as_task(task.id), None, caller, key))

    return routes


def _looking(services: Services, watch: Watch) -> APIRouter:
    routes = APIRouter(tags=["tasks"], responses=error_responses(Problem))

    @routes.get("/v1/tasks/{task_id}", response_model=TaskAnswer)
    async def task(task_id: TaskId) -> Response:
        """Where a task stands, and what it made."""
        return await _shown(services, await services.store.get(task_id))

    @routes.get("/v1/tasks/{task_id}/events", response_class=Response, responses=EVENT_STREAM)
    async def events(
        request: Request,
        task_id: TaskId,
        last_event_id: Annotated[
            str | None,
            Header(alias="Last-Event-ID", description="of the last event that was heard; what came after is told"),
        ] = None,
    ) -> Response:
        """Changes of state and progress as server-sent events, until the task is over."""
        found = await services.store.get(task_id)
        heard = Mark.parsed(last_event_id)
        if has_heard_all(found, heard):
            return Response(status_code=204)
        if getattr(request.state, "is_head", False):
            return Response(media_type="text/event-stream")
        return events_of(services, watch, found, heard)

    @routes.delete(
        "/v1/tasks/{task_id}",
        response_model=TaskAnswer,
        responses={
            204: {"description": "It was over, and is forgotten with its audio"},
            **error_responses(Problem, {409: "A task that goes on from this one is not over, or `only` forbids it"}),
        },
    )
    async def delete(
        task_id: TaskId,
        only: Annotated[
            Literal["unfinished", "finished"] | None,
            Query(description="cancel only, or forget only: a task that stands otherwise stays as it is, with 409"),
        ] = None,
    ) -> Response:
        """Cancels a task that is not over; forgets one that is."""
        found = await services.store.get(task_id)
        if found.status not in UNFINISHED and only == "unfinished":
            raise Conflict(f"the task is {found.status}: there is nothing to cancel", "finished")
        if found.status in UNFINISHED and only == "finished":
            raise Conflict(f"the task is {found.status}; cancel it first", "unfinished")
        if found.status in UNFINISHED:
            return await _shown(services, await services.store.cancel(task_id))
        await services.store.forget(task_id)
        return Response(status_code=204)

    return routes


def _listening(services: Services, shelf: AudioShelf) -> APIRouter:
    routes = APIRouter(
        tags=["audio"],
        default_response_class=Response,
        responses=error_responses(
            Problem, {409: "There is no audio, or not yet", 416: "The range begins beyond the file's end"}
        ),
    )

    @routes.get("/v1/tasks/{task_id}/audio", responses=AUDIO_ANSWERS)
    async def audio(
        request: Request,
        task_id: TaskId,
        wanted: Annotated[
            Format | None, Query(alias="format", description="by default the one that the task asked for")
        ] = None,
        take: Annotated[int, Query(ge=0, lt=TAKES_MAX)] = 0,
        live: Annotated[
            Literal["0", "1"],
            Query(description="1: as WAV, from its beginning on, while it is made"),
        ] = "0",
    ) -> Response:
        """What a task made, whole or by ranges; with `live=1` also while it is made."""
        task = await services.store.get(task_id)
        if live == "1":
            return await shelf.live(request, Wanted(task, take, wanted or "wav"))
        asked = task.job.format if isinstance(task.job, MusicJob) else "wav"
        return await shelf.file(request, Wanted(task, take, wanted or asked))

    return routes


def _cutting(services: Services) -> APIRouter:
    routes = APIRouter(
        tags=["audio"],
        default_response_class=Response,
        responses={**error_responses(Problem), **audio_answer("the audio; sample for sample in wav and flac")},
    )

    @routes.post("/v1/audio/crop", openapi_extra=AUDIO_BODY)
    async def crop(
        request: Request, start_s: StartParam = 0.0, end_s: EndParam = None, form: FormatParam = "wav"
    ) -> Response:
        """A stretch of a file."""
        data = await services.audio.crop_to(await request.body(), start_s, end_s, form)
        return Response(data, media_type=MEDIA_TYPES[form])

    @routes.post("/v1/audio/join", openapi_extra=FILES_BODY)
    async def join(request: Request, form: FormatParam = "wav") -> Response:
        """Files joined, in their order."""
        files = await read_files(request, services.limits.clips)
        return Response(await services.audio.join_to(files, form), media_type=MEDIA_TYPES[form])

    return routes


def _service(services: Services) -> APIRouter:
    routes = APIRouter(tags=["service"], responses=error_responses(Problem))

    @routes.get("/v1/models")
    async def models() -> ModelsAnswer:
        """Which models are served, and whether somebody is ready to play them."""
        ready = (await services.health()).ready
        new_s = services.limits.new_music_max_s
        listed = [
            ModelShown(
                name=model.name,
                size=model.size,
                description=model.description,
                licence=model.licence,
                loaded=ready.get(model.size, 0) > 0,
                replicas_ready=ready.get(model.size, 0),
                max_total_s=services.limits.prompt_max_s + new_s,
                max_new_s=new_s,
            )
            for model in services.models
        ]
        return ModelsAnswer(default=services.default_model, models=listed)

    @routes.get("/v1/limits")
    async def limits() -> LimitsAnswer:
        """What the service takes."""
        return LimitsAnswer(**services.limits.model_dump(), takes=TAKES_MAX)

    return routes


async def _accepted(services: Services, task_id: str) -> Response:
    answer = await _shown(services, await services.store.get(task_id), 202)
    answer.headers["Location"] = path_of(task_id)
    return answer


async def _shown(services: Services, task: Task, status: int = 200) -> Response:
    place = await _place(services, task)
    answer = shown(task, place, await services.store.children(task.id))
    return Response(answer.model_dump_json(by_alias=True), status, media_type="application/json")


async def _place(services: Services, task: Task) -> Place | None:
    return await services.store.place(task) if task.status is Status.QUEUED else None
