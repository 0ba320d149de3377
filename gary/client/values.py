"""What the service answers. Keys that this client does not know are kept, so a newer service is understood too."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, JsonValue


class State(StrEnum):
    QUEUED = "queued"
    FETCHING = "fetching"
    GENERATING = "generating"
    ENCODING = "encoding"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})


class Answer(BaseModel):
    """Base of all values here."""

    model_config = ConfigDict(extra="allow", frozen=True)


class QueuePlace(Answer):
    """Position 1 is the next to be begun; eta_s is None where nobody can tell."""

    position: int
    eta_s: float | None = None


class Progress(Answer):
    """Of the present attempt; frames are counted over all takes."""

    fraction: float
    frames_done: int = 0
    frames_total: int = 0
    eta_s: float | None = None


class TaskFailure(Answer):
    code: str
    message: str


class Take(Answer):
    """One finished answer; `audio` is its path on the service. Of tasks of the old routes less is known."""

    take: int
    seed: int
    duration_s: float | None = None
    wav_sha256: str | None = None
    audio: str | None = None


class Music(Answer):
    """What is being made: `source_s` is where the new music begins, `duration_s` the length of the whole answer."""

    sample_rate_hz: int
    channels: int
    source_s: float
    duration_s: float
    prompt_s: float
    tempo_bpm: float | None = None
    tempo_confidence: float | None = None
    tempo_assumed: bool = False
    bars: int | None = None


class Timings(Answer):
    queued_s: float | None = None
    fetching_s: float | None = None
    generating_s: float | None = None
    encoding_s: float | None = None


class Task(Answer):
    """A task as it stood when it was asked for.

    Attributes:
        queue: only while it is queued.
        progress, music: from generating on.
        request: what was asked, with the defaults filled in.
        children: the tasks that go on from it; empty in events.
        receipt: with which the same samples can be made again.
        links: paths on the service, by name.
    """

    id: str
    state: State
    created_at: datetime
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    queue: QueuePlace | None = None
    progress: Progress | None = None
    error: TaskFailure | None = None
    attempts: int = 0
    request: dict[str, JsonValue] = {}
    model: str | None = None
    seed: int | None = None
    takes: tuple[Take, ...] = ()
    music: Music | None = None
    timings: Timings = Timings()
    parent: str | None = None
    children: tuple[str, ...] = ()
    receipt: dict[str, JsonValue] | None = None
    links: dict[str, str | None] = {}

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


class ModelInfo(Answer):
    """A model that orders may name; max_total_s and max_new_s bound an answer and its new music."""

    name: str
    size: str | None = None
    description: str | None = None
    licence: str | None = None
    loaded: bool | None = None
    replicas_ready: int | None = None
    max_total_s: float | None = None
    max_new_s: float | None = None


class Models(Answer):
    default: str
    models: tuple[ModelInfo, ...]


class Health(Answer):
    """`status` is `live`, or which part is down stands beside it."""

    status: str

    @property
    def is_live(self) -> bool:
        return self.status == "live"


class Problem(Answer):
    """Problem details (RFC 9457), as far as they are there."""

    title: str | None = None
    detail: str | None = None
    code: str | None = None
    errors: tuple[dict[str, JsonValue], ...] = ()
