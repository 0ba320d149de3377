"""From a body of /v1 to a task: everything is checked before it is written, first what costs least."""

from __future__ import annotations

import asyncio
from typing import Any

from gary.api.accept import answered_before, begin, idempotency_of
from gary.api.access import Caller
from gary.api.services import Services
from gary.api.v1.schemas import (
    SEED_BOUND,
    EarlierTask,
    FileSource,
    InBars,
    InRange,
    LengthAsked,
    TaskBody,
    UrlSource,
)
from gary.api.v1.shown import duration_of
from gary.api.v1.uploads import Upload, shown_name
from gary.config import Limits
from gary.errors import Conflict, InvalidInput
from gary.links import parse_link
from gary.tasks.music import Length, LinkSource, MusicJob, MusicSource, Sampling, TaskSource, UploadSource
from gary.tasks.task import Status, Task

_STRETCH_LEAST_S = 0.1
_ROUNDING_S = 0.01  # a client may send a length that it has shown, rounded


async def accept_task(
    services: Services, body: TaskBody, upload: Upload | None, caller: Caller, key: str | None
) -> str:
    """The id of the task that `body` makes, or made under the same key.

    Raises:
        InvalidInput: what cannot be served, by its own code.
        Conflict: (code `not_ready`) the task that it goes on from is not completed.
        MediaError, TooLarge: of the upload.
        QueueFull, IdempotencyMismatch, DatabaseUnavailable: as `TaskStore.create`.
    """
    job = _job(services, body, upload, caller)
    asked = body.model_dump()
    data = upload.data if upload is not None else None
    idempotency = await asyncio.to_thread(idempotency_of, caller, key, "/v1/tasks", asked, data)
    if known := await answered_before(services, idempotency):
        return known
    if isinstance(body.source, EarlierTask):
        check_stretch(await services.store.get(body.source.task), body.source)
    if data is not None:
        _check_start(body, await services.audio.probe(data))
    task_id = await services.store.create(job, idempotency, data)
    begin(services, task_id, job, caller)
    return task_id


def check_stretch(parent: Task, source: EarlierTask) -> None:
    """Whether a task can go on from that stretch.

    Raises:
        Conflict: (code `not_ready`, `task_failed`, `task_cancelled`) the parent has no audio.
        InvalidInput: unknown_take, past_end, bad_range.
    """
    check_completed(parent)
    duration_s = duration_of_take(parent, source.take)
    end_s = source.end_s if source.end_s is not None else duration_s
    if end_s is not None and end_s - source.start_s < _STRETCH_LEAST_S:
        raise InvalidInput(
            f"the stretch goes from {source.start_s:g} s to {end_s:g} s; it has to be {_STRETCH_LEAST_S:g} s at least",
            "bad_range",
        )
    if duration_s is not None and end_s is not None and end_s > duration_s + _ROUNDING_S:
        raise InvalidInput(f"the stretch ends at {end_s:g} s, and the audio at {duration_s:g} s", "past_end")


def check_completed(task: Task) -> None:
    """Raises Conflict (code `not_ready`, `task_failed` or `task_cancelled`) unless the task has audio."""
    match task.status:
        case Status.COMPLETED:
            return
        case Status.FAILED:
            reason = f": {task.error.message}" if task.error is not None else ""
            raise Conflict(f"the task failed and has no audio{reason}", "task_failed")
        case Status.CANCELLED:
            raise Conflict("the task was cancelled and has no audio", "task_cancelled")
    raise Conflict(f"the task is {task.status} and has no audio yet; come again when it is completed", "not_ready")


def duration_of_take(task: Task, take: int) -> float | None:
    """Seconds of a completed task's take; None where a task of the old routes does not say.

    Raises InvalidInput (code `unknown_take`).
    """
    check_take(take, len(task.takes) or 1)
    return task.takes[take].duration_s if task.takes else duration_of(task.facts)


def check_take(take: int, takes: int) -> None:
    """Raises InvalidInput (code `unknown_take`) unless there is a take of that number among so many."""
    if take >= takes:
        raise InvalidInput(f"the task has no take {take}; its takes are numbered from 0 to {takes - 1}", "unknown_take")


def _job(services: Services, body: TaskBody, upload: Upload | None, caller: Caller) -> MusicJob:
    model = services.model(body.model)
    if isinstance(body.source, FileSource) and upload is None:
        raise InvalidInput("the source is an upload: send it as the part `file` of multipart/form-data", "no_upload")
    if not isinstance(body.source, FileSource) and upload is not None:
        raise InvalidInput('a file was sent, but the source is not {"upload": true}', "unexpected_upload")
    _check_lengths(services.limits, body)
    seed = body.seed if body.seed is not None else services.new_seed()
    if seed + body.takes > SEED_BOUND:
        raise InvalidInput(f"seed is {seed}; with {body.takes} takes it must stay below 2**53", "seed_too_large")
    description = body.description if body.description is not None else model.description
    return MusicJob(
        source=_source(services, body, upload),
        model=model.name,
        prompt_s=body.prompt.length_s,
        side=_side(body),
        length=_length(body.length),
        description=description,
        seed=seed,
        takes=body.takes,
        sampling=Sampling(**body.sampling.model_dump()),
        format=body.format,
        holder=caller.holder,
    )


def _source(services: Services, body: TaskBody, upload: Upload | None) -> MusicSource:
    source = body.source
    match source:
        case UrlSource():
            longest_s = services.limits.source_duration_s
            if source.start_s > longest_s:
                sentence = f"start_s is {source.start_s:g}; sources are at most {longest_s:g} s long"
                raise InvalidInput(sentence, "past_end")
            link = parse_link(source.url, services.sources.allow_direct_urls)
            return LinkSource(url=source.url, link=link.url, site=link.site, start_s=source.start_s)
        case FileSource():
            name = shown_name(source.name) or (upload.name if upload is not None else None)
            return UploadSource(name=name, start_s=source.start_s)
    return TaskSource(task=source.task, take=source.take, start_s=source.start_s, end_s=source.end_s)


def _side(body: TaskBody) -> Any:
    """The prompt's side, filled in. Raises InvalidInput (code `bad_side`)."""
    is_task = isinstance(body.source, EarlierTask)
    side = body.prompt.side or ("cursor" if isinstance(body.source, UrlSource) else "tail")
    if is_task and side != "tail":
        raise InvalidInput("of a task the prompt is the tail; choose its place by start_s and end_s", "bad_side")
    if not is_task and side != "cursor" and body.source.start_s > 0:
        raise InvalidInput(f"start_s counts with the side cursor alone; this is the {side}", "bad_side")
    return side


def _check_lengths(limits: Limits, body: TaskBody) -> None:
    """What can be known now: how long bars are without a tempo is known when the source has been heard."""
    if body.prompt.length_s > limits.prompt_max_s:
        raise InvalidInput(
            f"the prompt is {body.prompt.length_s:g} s; at most {limits.prompt_max_s:g} s are taken", "prompt_too_long"
        )
    new_s = _new_music_s(body.length)
    if new_s is not None and new_s > limits.new_music_max_s:
        raise InvalidInput(
            f"{new_s:g} s of new music are asked for; at most {limits.new_music_max_s:g} s are made", "music_too_long"
        )


def _new_music_s(length: LengthAsked) -> float | None:
    match length:
        case InBars():
            return length.bars * 240 / length.tempo_bpm if length.tempo_bpm is not None else None
        case InRange():
            return length.max_s
    return length.seconds


def _length(length: LengthAsked) -> Length:
    return Length(**length.model_dump())


def _check_start(body: TaskBody, duration_s: float) -> None:
    start_s = body.source.start_s
    if start_s >= duration_s:
        raise InvalidInput(f"start_s is {start_s:g}; the file is {duration_s:g} s long", "past_end")
