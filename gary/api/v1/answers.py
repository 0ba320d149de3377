"""What /v1 answers, as values that describe themselves. How a task becomes one: `gary.api.v1.shown`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, PlainSerializer

from gary.api.v1.schemas import TASK_ID_PATTERN, TaskBody
from gary.config import Limits
from gary.tasks.music import Format, Receipt
from gary.tasks.task import Status

MEDIA_TYPES: dict[Format, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
}


def _rfc3339(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[datetime, PlainSerializer(_rfc3339), Field(description="RFC 3339, UTC")]
TaskId = Annotated[str, Field(pattern=TASK_ID_PATTERN)]
Link = Annotated[str, Field(description="a path of this service")]


class Answer(BaseModel):
    """Base of all answers; more keys may come."""


class QueueShown(Answer):
    position: Annotated[int, Field(ge=1, description="1 is begun next")]
    eta_s: Annotated[float | None, Field(description="until it is begun, as fast as tasks finish now")]


class ProgressShown(Answer):
    fraction: Annotated[float, Field(ge=0, le=1)]
    frames_done: Annotated[int, Field(ge=0, description="of the frames to be made, over all takes")]
    frames_total: Annotated[int, Field(ge=0)]
    eta_s: Annotated[float | None, Field(description="until all frames are there")]


class ErrorShown(Answer):
    code: Annotated[str, Field(description="a stable word for programs; /docs/errors explains each")]
    message: str


class TakeShown(Answer):
    take: int
    seed: int
    duration_s: float | None
    wav_sha256: Annotated[str | None, Field(description="of the WAV file's bytes; null for a task of the old routes")]
    audio: Link


class MusicShown(Answer):
    """What is being made."""

    sample_rate_hz: int
    channels: int
    source_s: Annotated[float, Field(description="where in the answer the new music begins")]
    duration_s: Annotated[float, Field(description="of the whole answer")]
    prompt_s: Annotated[float, Field(description="of the prompt as it was taken")]
    tempo_bpm: Annotated[float | None, Field(description="of the source; null where no beat was heard")]
    tempo_confidence: Annotated[float, Field(description="0 to 1")]
    tempo_assumed: Annotated[bool, Field(description="no beat was heard, and bars are as long as at 120 bpm")]
    bars: Annotated[int | None, Field(description="of new music")]


class TimingsShown(Answer):
    """Seconds spent in each state, all attempts together; null where it has not left that state yet."""

    queued_s: float | None
    fetching_s: float | None
    generating_s: float | None
    encoding_s: float | None


class LinksShown(Answer):
    self: Link
    events: Link
    audio: Link
    live: Annotated[Link | None, Field(description="null where nothing will come")]
    continue_: Annotated[Link, Field(alias="continue")]
    parent: Link | None


class TaskAnswer(Answer):
    """A task, where it stands, and how to go on from it."""

    id: TaskId
    state: Status
    created_at: Time
    finished_at: Time | None
    expires_at: Annotated[Time | None, Field(description="when it is forgotten, with its audio")]
    queue: Annotated[QueueShown | None, Field(description="while it is queued")]
    progress: Annotated[ProgressShown | None, Field(description="from generating on")]
    error: Annotated[ErrorShown | None, Field(description="why it failed")]
    attempts: Annotated[int, Field(ge=0)]
    request: Annotated[TaskBody, Field(description="what was asked for, with what was left out filled in")]
    model: str
    seed: int
    takes: Annotated[list[TakeShown], Field(description="once it is completed")]
    music: Annotated[MusicShown | None, Field(description="from generating on; null for a task of the old routes")]
    timings: TimingsShown
    parent: Annotated[TaskId | None, Field(description="the task that it goes on from")]
    children: Annotated[list[TaskId], Field(description="the tasks that go on from it, oldest first; 100 at most")]
    receipt: Annotated[Receipt | None, Field(description="with which the same samples can be made again")]
    links: LinksShown


class ModelShown(Answer):
    name: Annotated[str, Field(description="as requests name it")]
    size: str
    description: Annotated[str | None, Field(description="of the music, where a request brings none")]
    licence: Annotated[str, Field(description="of the weights")]
    loaded: Annotated[bool, Field(description="a replica for this size is up; where not, the first task waits for one")]
    replicas_ready: Annotated[int, Field(ge=0)]
    max_total_s: Annotated[float, Field(description="of an answer to a link or an upload, prompt included")]
    max_new_s: Annotated[float, Field(description="of new music")]


class ModelsAnswer(Answer):
    default: Annotated[str, Field(description="served where a request names none")]
    models: list[ModelShown]


class LimitsAnswer(Limits):
    """What the service takes; units are in the names."""

    takes: Annotated[int, Field(gt=0, description="of one task")]
