"""Tasks as the database holds them: documents from values and back. No database, no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from bson import ObjectId
from bson.errors import InvalidId
from pydantic import JsonValue, TypeAdapter, ValidationError

from gary.errors import FatalError, InvalidInput
from gary.tasks.music import AudioFile
from gary.tasks.task import STEPS_MAX, AnyJob, Facts, RequestMark, Status, Step, Task

Document = dict[str, Any]

_FACTS: TypeAdapter[Facts] = TypeAdapter(Facts)
# What an attempt tells of itself, before it has told anything.
UNTOLD: Document = {"progress": 0.0, "frames_done": 0, "frames_total": 0, "eta_s": None, "sheet": None}
# The fields of a document that `file_ids_of` looks at.
FILE_FIELDS = ("upload", "result", "takes")


def object_id(task_id: str) -> ObjectId:
    """Raises InvalidInput (code `malformed_id`)."""
    try:
        return ObjectId(task_id)
    except InvalidId as error:
        raise InvalidInput(f"{task_id[:80]!r} is no task id: 24 hexadecimal digits are", "malformed_id") from error


def task_of(document: Document) -> Task:
    """Raises FatalError (code `task_shape`): another version of the service wrote it."""
    fields = {name: value for name, value in document.items() if name != "_id"}
    try:
        return Task.model_validate({"id": str(document["_id"]), **fields})
    except ValidationError as error:
        raise FatalError(
            f"task {document['_id']} was written by a version of the service that this one cannot read", "task_shape"
        ) from error


def fresh(job: AnyJob, now: datetime, upload: AudioFile | None = None, request: RequestMark | None = None) -> Document:
    """All fields of a new task, but its id."""
    task = Task(
        id="0" * 24,
        status=Status.QUEUED,
        job=job,
        upload=upload,
        created_at=now,
        queued_at=now,
        request=request,
        steps=(Step(seq=1, status=Status.QUEUED, at=now),),
    )
    return task.model_dump(exclude={"id"})


def requeued(
    job: AnyJob, now: datetime, upload: AudioFile | None = None, request: RequestMark | None = None
) -> Document:
    """What changes in a task that is given a new job, beside its status, its fence and the record of its steps."""
    lasting = {"created_at", "fence", "status", "steps"}
    return {name: value for name, value in fresh(job, now, upload, request).items() if name not in lasting}


def steps_after(before: Task, status: Status, now: datetime) -> tuple[Step, ...]:
    """The latest STEPS_MAX steps once a task has become `status`; one to the status that it has is no change."""
    if before.status is status:
        return before.steps
    return (*before.steps, Step(seq=before.seq + 1, status=status, at=now))[-STEPS_MAX:]


def stepped(before: Task, status: Status, now: datetime) -> Document:
    """What a step to `status` changes by itself: the status, its record, and what is true of every completed task."""
    steps = [step.model_dump() for step in steps_after(before, status, now)]
    changed: Document = {"status": status.value, "steps": steps}
    if status is Status.COMPLETED:
        changed |= {"progress": 1.0, "frames_done": before.frames_total, "eta_s": None}
    return changed


def finished(now: datetime, expires_at: datetime, **fields: Any) -> Document:
    """What changes in a task that is completed or failed, beside its status."""
    return {"lease": None, "finished_at": now, "expires_at": expires_at, **fields}


def facts_update(facts: Mapping[str, JsonValue] | None) -> Document:
    """An update that adds facts one by one; their names are checked, for a dot would reach elsewhere."""
    return {f"facts.{name}": value for name, value in _FACTS.validate_python(dict(facts or {})).items()}


def file_ids_of(document: Document) -> set[str]:
    """Files that a task's document refers to; the document need not be readable as a Task."""
    takes = (take[part] for take in document.get("takes", ()) for part in ("wav", "codes"))
    files = (document["upload"], document["result"], *takes)
    return {file["file_id"] for file in files if file is not None}


def one_of(statuses: Iterable[Status]) -> Document:
    return {"$in": sorted(status.value for status in statuses)}
