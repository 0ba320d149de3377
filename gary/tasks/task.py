"""What a task is: values and the table of its legal steps. No database, no clock, no I/O.

A task is one piece of music that a client wished for; its id stays while jobs come and go (`/continue` gives the same
task a new one). Two numbers tell workers apart. `attempts` counts how often the present job was begun. `fence` only
ever rises, with each claim, restart and cancellation: a worker whose claim carries an older fence has lost the task,
and whatever it writes is refused.

    queued ──► fetching ──► generating ──► encoding ──► completed, failed, cancelled
      ▲            ▲             │             │                     │
      │            └─────────────┴─────────────┤ next claim, where   │
      │                                        │ the lease ran out   │
      └────────────────────────────────────────┴─────────────────────┘
                                  release              restart
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from gary.errors import AttemptsExhausted, FatalError, GaryError
from gary.tasks.music import (
    AudioFile,
    Id,
    MusicJob,
    Receipt,
    Sampling,
    Sha256,
    Sheet,
    Take,
    TaskSource,
    Value,
)


class Status(StrEnum):
    QUEUED = "queued"
    FETCHING = "fetching"
    GENERATING = "generating"
    ENCODING = "encoding"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


WORKING = frozenset({Status.FETCHING, Status.GENERATING, Status.ENCODING})
UNFINISHED = WORKING | {Status.QUEUED}
STEPS_MAX = 100

_ANY_TIME = frozenset({Status.QUEUED, Status.FETCHING, Status.FAILED, Status.CANCELLED})
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: _ANY_TIME,
    Status.FETCHING: _ANY_TIME | {Status.GENERATING},
    # A step to the status that a task has already is legal: the answer to the first one may have been lost.
    Status.GENERATING: _ANY_TIME | {Status.GENERATING, Status.ENCODING},
    Status.ENCODING: _ANY_TIME | {Status.ENCODING, Status.COMPLETED},
    Status.COMPLETED: frozenset({Status.QUEUED}),
    Status.FAILED: frozenset({Status.QUEUED}),
    Status.CANCELLED: frozenset({Status.QUEUED}),
}


def check_transition(old: Status, new: Status) -> None:
    """Raises FatalError (code `illegal_transition`) unless a task may go from `old` to `new`."""
    if new not in TRANSITIONS[old]:
        raise FatalError(f"a task that is {old} cannot become {new}", "illegal_transition")


def sources_of(new: Status) -> frozenset[Status]:
    """The statuses from which `new` may be reached."""
    return frozenset(old for old, reached in TRANSITIONS.items() if new in reached)


FactName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
Facts = dict[FactName, JsonValue]


class _Music(Value):
    """What both kinds of job say.

    Attributes:
        url: the link as the client sent it.
        start_s: where in the linked audio the prompt begins.
        prompt_s: length of the prompt.
    """

    url: Annotated[str, Field(min_length=1)]
    start_s: Annotated[float, Field(ge=0)] = 0.0
    model: Annotated[str, Field(min_length=1)]
    prompt_s: Annotated[float, Field(gt=0)]
    description: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    sampling: Sampling = Sampling()


class GenerateJob(_Music):
    """Continue the audio of a link to a whole number of bars between `min_s` and `max_s`, prompt included.

    Attributes:
        link: where the audio is fetched from: `url` in its canonical form.
        site: the kind of source that `link` is.
    """

    kind: Literal["generate"] = "generate"
    link: Annotated[str, Field(min_length=1)]
    site: Literal["youtube", "soundcloud", "direct"]
    min_s: Annotated[float, Field(gt=0)]
    max_s: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if self.min_s > self.max_s:
            raise ValueError(f"min_s {self.min_s:g} is over max_s {self.max_s:g}")
        return self


class ContinueJob(_Music):
    """Continue the last `prompt_s` of the task's upload to `length_s` in all; `url` tells where the music came from."""

    kind: Literal["continue"] = "continue"
    length_s: Annotated[float, Field(gt=0)]


Job = Annotated[GenerateJob | ContinueJob | MusicJob, Field(discriminator="kind")]
AnyJob = GenerateJob | ContinueJob | MusicJob


class Step(Value):
    """A change of a task's status. `seq` counts them over the task's whole life."""

    seq: Annotated[int, Field(ge=1)]
    status: Status
    at: datetime


class Lease(Value):
    """Who works on a task, and until when (by the database server's clock) it counts as alive without being heard."""

    owner: Annotated[str, Field(min_length=1)]
    until: datetime


class TaskError(Value):
    """Why something failed: a stable word for programs and a sentence for people."""

    code: str
    message: str

    @classmethod
    def of(cls, error: GaryError) -> TaskError:
        return cls(code=error.code, message=error.message)

    @classmethod
    def given_up(cls, attempts: int, last: TaskError | None) -> TaskError:
        """Of a task that was begun as often as it may be; `last` is the latest reason, where one is known."""
        if last is None:  # its workers died and could not say why
            return cls.of(AttemptsExhausted(f"given up after {attempts} attempts: each time its worker was lost"))
        return cls(code=last.code, message=f"{last.message.rstrip('.')}; given up after {attempts} attempts")


class Idempotency(Value):
    """A client's word that what it sends again is the same request; of its key only a hash is kept."""

    key_sha256: Sha256
    request_sha256: Sha256

    @classmethod
    def of(cls, holder: str, key: str, request: str) -> Idempotency:
        """Args:
        holder: name of the API key that the client showed; empty where none is asked for. Two holders' equal keys
            have nothing to do with each other.
        key: as the client sent it.
        request: what was asked, the route included, as canonical JSON.
        """
        pair = json.dumps([holder, key])
        return cls(
            key_sha256=hashlib.sha256(pair.encode()).hexdigest(),
            request_sha256=hashlib.sha256(request.encode()).hexdigest(),
        )


class RequestMark(Value):
    """One use of an idempotency key; a key that is used again after it was forgotten makes another mark."""

    key_sha256: Sha256
    use: Id


class QueueState(Value):
    """How busy the house is.

    Attributes:
        queued: tasks that wait, for a worker or for their next attempt.
        working: tasks that a worker holds or held last.
        oldest_waiting_s: since the job of the longest waiting task came; None where none waits.
        finished_per_minute: completed and failed, over the last ten minutes; None where there were none.
    """

    queued: Annotated[int, Field(ge=0)]
    working: Annotated[int, Field(ge=0)]
    oldest_waiting_s: Annotated[float, Field(ge=0)] | None
    finished_per_minute: Annotated[float, Field(gt=0)] | None


class Place(Value):
    """Where a queued task stands.

    Attributes:
        position: 1 is the next to be begun.
        eta_s: until it is begun, by the rate at which tasks finish; None where none has finished lately.
    """

    position: Annotated[int, Field(ge=1)]
    eta_s: Annotated[float, Field(ge=0)] | None


class Task(Value):
    """A task as it stood when it was read.

    Attributes:
        created_at, queued_at: when the task came, and when its present job came; by the database server's clock.
        steps: the latest changes of status, oldest first, at most STEPS_MAX.
        progress: 0 to 1, of the present attempt.
        frames_done, frames_total: of the frames of codes to be made, over all takes.
        eta_s: seconds from the latest word of progress until all frames are there.
        sheet: what is being made, of a music job that is generating or further.
        error: why it failed.
        setback: why the latest attempt was released, where the worker said so.
        not_before: when the next attempt may begin, after a setback.
        upload: the audio that a ContinueJob goes on from.
        result: what a completed task made; of a music job, its first take.
        takes: what a completed music job made.
        receipt: how a completed music job was made.
        facts: small values that are found out on the way, such as tempo_bpm, bars, duration_s, title.
        request: which request gave it its present job, where that came with an idempotency key.
        finished_at: when it was completed or failed.
        expires_at: when a finished task is forgotten; None while unfinished.
    """

    id: Id
    status: Status
    job: Job
    created_at: datetime
    queued_at: datetime
    attempts: Annotated[int, Field(ge=0)] = 0
    fence: Annotated[int, Field(ge=0)] = 0
    lease: Lease | None = None
    steps: tuple[Step, ...] = ()
    progress: Annotated[float, Field(ge=0, le=1)] = 0.0
    frames_done: Annotated[int, Field(ge=0)] = 0
    frames_total: Annotated[int, Field(ge=0)] = 0
    eta_s: Annotated[float, Field(ge=0)] | None = None
    sheet: Sheet | None = None
    error: TaskError | None = None
    setback: TaskError | None = None
    not_before: datetime | None = None
    upload: AudioFile | None = None
    result: AudioFile | None = None
    takes: tuple[Take, ...] = ()
    receipt: Receipt | None = None
    facts: Facts = Field(default_factory=dict)
    request: RequestMark | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None

    @property
    def file_ids(self) -> tuple[str, ...]:
        """The files that this task refers to."""
        takes = (file for take in self.takes for file in (take.wav, take.codes))
        files = (file for file in (self.upload, self.result, *takes) if file is not None)
        return tuple(dict.fromkeys(file.file_id for file in files))

    @property
    def seq(self) -> int:
        """Of the latest change of status; 0 for a task that an older version of the service wrote."""
        return self.steps[-1].seq if self.steps else 0

    @property
    def parent(self) -> str | None:
        """The task whose music this one goes on from."""
        source = self.job.source if isinstance(self.job, MusicJob) else None
        return source.task if isinstance(source, TaskSource) else None

    def is_claimable(self, now: datetime) -> bool:
        """Whether it waits for a worker and may begin, or its worker has not been heard of for a whole lease."""
        if self.status in WORKING:
            return self.lease is None or self.lease.until < now
        return self.status is Status.QUEUED and (self.not_before is None or self.not_before <= now)


class Claim(Value):
    """What a worker holds: the task as it claimed it, whose fence every write of the worker must show."""

    task: Task

    @property
    def fence(self) -> int:
        return self.task.fence
