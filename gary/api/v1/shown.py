"""A task as /v1 shows it, whichever routes it came by. Values in, values out: no database, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from gary.api.v1.answers import (
    ErrorShown,
    LinksShown,
    MusicShown,
    ProgressShown,
    QueueShown,
    TakeShown,
    TaskAnswer,
    TimingsShown,
)
from gary.api.v1.schemas import (
    EarlierTask,
    FileSource,
    InBars,
    InRange,
    InSeconds,
    Prompt,
    SamplingAsked,
    TaskBody,
    UrlSource,
)
from gary.tasks.music import Length, LinkSource, MusicJob, Sheet, UploadSource
from gary.tasks.task import UNFINISHED, AnyJob, ContinueJob, GenerateJob, Place, Status, Step, Task

_FROM_GENERATING_ON = frozenset({Status.GENERATING, Status.ENCODING, Status.COMPLETED})
_LEAST_S = 0.1  # of the old routes' lengths, which count the prompt


def shown(task: Task, place: Place | None = None, children: Sequence[str] = ()) -> TaskAnswer:
    """Args:
    place: of a queued task.
    children: ids of the tasks that go on from it.
    """
    here = path_of(task.id)
    job = task.job
    return TaskAnswer(
        id=task.id,
        state=task.status,
        created_at=task.created_at,
        finished_at=_finished_at(task),
        expires_at=task.expires_at,
        queue=QueueShown(position=place.position, eta_s=place.eta_s) if place is not None else None,
        progress=_progress(task),
        error=ErrorShown(code=task.error.code, message=task.error.message) if task.error is not None else None,
        attempts=task.attempts,
        request=request_of(job),
        model=job.model,
        seed=job.seed,
        takes=_takes(task, here),
        music=_music(task.sheet) if task.sheet is not None else None,
        timings=timings(task.steps),
        parent=task.parent,
        children=list(children),
        receipt=task.receipt,
        links=LinksShown.model_validate(
            {
                "self": here,
                "events": f"{here}/events",
                "audio": f"{here}/audio",
                "live": f"{here}/audio?live=1" if _has_live(task) else None,
                "continue": f"{here}/continue",
                "parent": path_of(task.parent) if task.parent is not None else None,
            }
        ),
    )


def path_of(task_id: str) -> str:
    return f"/v1/tasks/{task_id}"


def request_of(job: AnyJob) -> TaskBody:
    """What `POST /v1/tasks` would have to be sent for this job; of the old routes' jobs, what comes nearest."""
    return TaskBody.model_construct(
        source=_source(job),
        model=job.model,
        description=job.description,
        prompt=_prompt(job),
        length=_length(job),
        sampling=SamplingAsked.model_construct(**job.sampling.model_dump()),
        seed=job.seed,
        takes=job.takes if isinstance(job, MusicJob) else 1,
        format=job.format if isinstance(job, MusicJob) else "wav",
    )


def as_of(task: Task, step: Step) -> Task:
    """The task as it was shown when it came into that state, as far as it is still known."""
    if step.seq == task.seq:
        return task
    gone = {"error": None, "takes": (), "result": None, "receipt": None, "finished_at": None, "expires_at": None}
    steps = tuple(earlier for earlier in task.steps if earlier.seq <= step.seq)
    all_made = step.status is Status.ENCODING
    counts = {"progress": float(all_made), "frames_done": task.frames_total if all_made else 0, "eta_s": None}
    return task.model_copy(update={"status": step.status, "steps": steps, **gone, **counts})


def timings(steps: Sequence[Step]) -> TimingsShown:
    """How long each state took, from the times of its beginning and of the next one's."""
    spent_s: dict[Status, float] = {}
    for step, following in pairwise(steps):
        spent_s[step.status] = spent_s.get(step.status, 0.0) + (following.at - step.at).total_seconds()
    return TimingsShown(
        queued_s=spent_s.get(Status.QUEUED),
        fetching_s=spent_s.get(Status.FETCHING),
        generating_s=spent_s.get(Status.GENERATING),
        encoding_s=spent_s.get(Status.ENCODING),
    )


def _has_live(task: Task) -> bool:
    if not isinstance(task.job, MusicJob):
        return False
    return task.status in UNFINISHED or task.status is Status.COMPLETED


def _finished_at(task: Task) -> datetime | None:
    """A cancelled task has no such time of its own: it is the one of its last step."""
    if task.finished_at is not None or task.status in UNFINISHED or not task.steps:
        return task.finished_at
    return task.steps[-1].at


def _progress(task: Task) -> ProgressShown | None:
    if task.status not in _FROM_GENERATING_ON:
        return None
    return ProgressShown(
        fraction=task.progress, frames_done=task.frames_done, frames_total=task.frames_total, eta_s=task.eta_s
    )


def _takes(task: Task, here: str) -> list[TakeShown]:
    if task.status is not Status.COMPLETED:
        return []
    if isinstance(task.job, MusicJob):
        return [
            TakeShown(
                take=number,
                seed=take.seed,
                duration_s=take.duration_s,
                wav_sha256=take.wav_sha256,
                audio=f"{here}/audio?take={number}",
            )
            for number, take in enumerate(task.takes)
        ]
    audio, duration_s = f"{here}/audio?take=0", duration_of(task.facts)
    return [TakeShown(take=0, seed=task.job.seed, duration_s=duration_s, wav_sha256=None, audio=audio)]


def duration_of(facts: Mapping[str, object]) -> float | None:
    """Seconds of audio that a task of the old routes made, where it says so."""
    duration_s = facts.get("duration_s")
    return float(duration_s) if isinstance(duration_s, int | float) else None


def _music(sheet: Sheet) -> MusicShown:
    return MusicShown(
        sample_rate_hz=sheet.sample_rate_hz,
        channels=sheet.channels,
        source_s=sheet.source_samples / sheet.sample_rate_hz,
        duration_s=sheet.length_samples / sheet.sample_rate_hz,
        prompt_s=sheet.prompt_s,
        tempo_bpm=sheet.tempo_bpm,
        tempo_confidence=sheet.tempo_confidence,
        tempo_assumed=sheet.tempo_assumed,
        bars=sheet.bars,
    )


def _source(job: AnyJob) -> UrlSource | FileSource | EarlierTask:
    match job:
        case GenerateJob():
            return UrlSource.model_construct(url=job.url, start_s=job.start_s)
        case ContinueJob():
            return FileSource.model_construct(upload=True)
    match job.source:
        case LinkSource() as link:
            return UrlSource.model_construct(url=link.url, start_s=link.start_s)
        case UploadSource() as upload:
            return FileSource.model_construct(upload=True, name=upload.name, start_s=upload.start_s)
    earlier = job.source
    return EarlierTask.model_construct(
        task=earlier.task, take=earlier.take, start_s=earlier.start_s, end_s=earlier.end_s
    )


def _prompt(job: AnyJob) -> Prompt:
    if isinstance(job, MusicJob):
        return Prompt.model_construct(length_s=job.prompt_s, side=job.side)
    return Prompt.model_construct(length_s=job.prompt_s, side="cursor" if isinstance(job, GenerateJob) else "tail")


def _length(job: AnyJob) -> InSeconds | InRange | InBars:
    """Of the new music; the old routes' lengths are the whole answer's."""
    match job:
        case GenerateJob():
            least_s, most_s = (max(length_s - job.prompt_s, _LEAST_S) for length_s in (job.min_s, job.max_s))
            return InRange.model_construct(min_s=least_s, max_s=most_s)
        case ContinueJob():
            return InSeconds.model_construct(seconds=max(job.length_s - job.prompt_s, _LEAST_S))
    return _length_asked(job.length)


def _length_asked(length: Length) -> InSeconds | InRange | InBars:
    if length.bars is not None:
        return InBars.model_construct(bars=length.bars, tempo_bpm=length.tempo_bpm)
    if length.seconds is not None:
        return InSeconds.model_construct(seconds=length.seconds)
    return InRange.model_construct(min_s=length.min_s, max_s=length.max_s)
