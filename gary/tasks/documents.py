"""Tasks as the database holds them: documents from values and back. No database, no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from bson import ObjectId
from bson.errors import InvalidId
from pydantic import JsonValue, TypeAdapter, ValidationError

from gary.errors import FatalError, InvalidInput
from gary.tasks.task import AudioFile, ContinueJob, Facts, GenerateJob, RequestMark, Status, Task

Document = dict[str, Any]

_FACTS: TypeAdapter[Facts] = TypeAdapter(Facts)


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


def fresh(
    job: GenerateJob | ContinueJob, now: datetime, upload: AudioFile | None = None, request: RequestMark | None = None
) -> Document:
    """All fields of a task that has just been queued, but those that a restart keeps or counts on."""
    task = Task(
        id="0" * 24, status=Status.QUEUED, job=job, upload=upload, created_at=now, queued_at=now, request=request
    )
    return task.model_dump(exclude={"id", "created_at", "fence"})


def finished(status: Status, now: datetime, expires_at: datetime, **fields: Any) -> Document:
    """What changes in a task that is completed or failed."""
    return {"status": status.value, "lease": None, "finished_at": now, "expires_at": expires_at, **fields}


def facts_update(facts: Mapping[str, JsonValue] | None) -> Document:
    """An update that adds facts one by one; their names are checked, for a dot would reach elsewhere."""
    return {f"facts.{name}": value for name, value in _FACTS.validate_python(dict(facts or {})).items()}


def file_ids_of(document: Document) -> set[str]:
    """Files that a task's document refers to; the document need not be readable as a Task."""
    return {file["file_id"] for file in (document["upload"], document["result"]) if file is not None}


def one_of(statuses: Iterable[Status]) -> Document:
    return {"$in": sorted(status.value for status in statuses)}
