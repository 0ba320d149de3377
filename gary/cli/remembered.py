"""The tasks that were begun from this machine by this user: a small file, since the service lists nobody's tasks.

One JSON line for each, oldest first. Programs that run at the same time take turns by a lock on the file.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from platformdirs import user_state_path
from pydantic import BaseModel, ConfigDict, ValidationError


class Begun(BaseModel):
    """A task that was begun; `what` it goes on from, in a person's words."""

    model_config = ConfigDict(frozen=True)

    id: str
    base_url: str
    what: str
    begun_at: datetime


class Memory:
    """What is in the file.

    Args:
        path: None is the user's own.
        kept: so many tasks at most.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path | None = None, kept: int = 500) -> None:
        self._kept = kept
        self._path = path or user_state_path("gary", appauthor=False) / "tasks.jsonl"

    def add(self, task_id: str, base_url: str, what: str) -> None:
        """Remembers a task; of too many the oldest are forgotten."""
        begun = Begun(id=task_id, base_url=base_url, what=what, begun_at=datetime.now(UTC))
        with self._held() as file:
            _write(file, [*_read(file), begun][-self._kept :])

    def of(self, base_url: str) -> list[Begun]:
        """The tasks of one service, newest first."""
        if not self._path.exists():
            return []
        with self._held() as file:
            return [begun for begun in reversed(_read(file)) if begun.base_url == base_url]

    def drop(self, task_ids: Collection[str]) -> None:
        """Forgets those that the service has forgotten."""
        if not task_ids or not self._path.exists():
            return
        with self._held() as file:
            _write(file, [begun for begun in _read(file) if begun.id not in task_ids])

    @contextmanager
    def _held(self) -> Iterator[TextIO]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
            yield file


def _read(file: TextIO) -> list[Begun]:
    file.seek(0)
    found = []
    for line in file:
        try:
            found.append(Begun.model_validate_json(line))
        except ValidationError:  # half a line, of a program that was killed as it wrote
            continue
    return found


def _write(file: TextIO, all_begun: list[Begun]) -> None:
    file.seek(0)
    file.truncate()
    file.writelines(json.dumps(begun.model_dump(mode="json"), ensure_ascii=False) + "\n" for begun in all_begun)
