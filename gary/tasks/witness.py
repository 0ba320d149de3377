"""Who is told of what this process has changed in the store. It hears of it once the database has it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gary.tasks.task import Status, Task


@dataclass(frozen=True)
class Change:
    """A task has become `status`, or was claimed anew.

    Attributes:
        before: as it was read.
        at: by the database server's clock.
        code: of the error that made it fail, or of the setback after which it waits for another attempt.
    """

    before: Task
    status: Status
    at: datetime
    code: str | None


class Witness(Protocol):
    """Neither waits nor fails: it is told in the middle of the store's work.

    A change whose answer was lost on its way from the database is not told: whoever counts may count too few, and
    never too many.
    """

    def created(self) -> None:
        """A new task is in the store."""
        ...

    def changed(self, change: Change) -> None: ...

    def stored(self, size_bytes: int) -> None:
        """A file of so many bytes is in the store."""
        ...


class Nobody:
    """Takes no notice."""

    def created(self) -> None:
        pass

    def changed(self, change: Change) -> None:
        pass

    def stored(self, size_bytes: int) -> None:
        pass
