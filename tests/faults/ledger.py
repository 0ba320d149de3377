"""What was accepted and what became of it: one case of the suite, and the table of all of them.

A task counts from the moment that its id was answered. It ends completed, failed with a reason, or cancelled; what has
not ended in time is lost, and what the database let complete more than once is doubled.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from bson import ObjectId
from pymongo import MongoClient, timeout
from pymongo.errors import PyMongoError

from tests.faults.waiting import until
from tests.faults.wire import Wire

SETTLE_S = 120.0
_ENDS = ("completed", "failed", "cancelled")


@dataclass
class Case:
    """One row.

    Attributes:
        breaks: what was killed or broken.
        points: where its tasks were then.
        accepted: ids that a client was answered.
        ends: the number of tasks by how they ended.
    """

    breaks: str
    points: str
    accepted: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    duration_s: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        numbers = "  ".join(f"{end} {self.ends[end]}" for end in _ENDS if self.ends[end] or end != "cancelled")
        return (
            f"{self.breaks:<44} accepted {len(self.accepted):>2}  {numbers}  lost {self.lost}  doubled {self.doubled}"
            f"  {self.duration_s:5.1f} s  at: {self.points}{f'; {self.note}' if self.note else ''}"
        )


@dataclass
class Report:
    """All cases of a session."""

    seed: int
    cases: list[Case] = field(default_factory=list)

    def json_line(self) -> str:
        ends = sum((case.ends for case in self.cases), Counter[str]())
        return json.dumps(
            {
                "cases": len(self.cases),
                "accepted": sum(len(case.accepted) for case in self.cases),
                **{end: ends[end] for end in _ENDS},
                "lost": sum(case.lost for case in self.cases),
                "doubled": sum(case.doubled for case in self.cases),
                "seed": self.seed,
            }
        )

    @property
    def holds(self) -> bool:
        return not any(case.lost or case.doubled for case in self.cases)


class Books:
    """Reads the tasks where they lie, past the service: the database itself, and the wire before it.

    Args:
        server_uri: of the database, not of the wire.
    """

    def __init__(self, server_uri: str, wire: Wire) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(server_uri, timeoutMS=5000)
        self._tasks = self._client["gary"]["tasks"]
        self.wire = wire

    def close(self) -> None:
        """Says goodbye to a database that may be gone; unasked, pymongo would look for it for 30 s."""
        with timeout(1.0):
            self._client.close()

    def tasks(self, ids: list[str]) -> list[dict[str, Any]]:
        """The tasks as they are; those that the database does not tell of now are missing."""
        try:
            which = {"_id": {"$in": [ObjectId(task_id) for task_id in ids]}}
            return self._tasks.find(which, ["status", "attempts", "error", "setback"]).to_list()
        except PyMongoError:
            return []

    def statuses(self, ids: list[str]) -> Counter[str]:
        return Counter(task["status"] for task in self.tasks(ids))

    def all_ended(self, ids: list[str]) -> bool:
        return sum(self.statuses(ids)[end] for end in _ENDS) == len(ids)

    def completed(self, ids: list[str]) -> list[str]:
        return [str(task["_id"]) for task in self.tasks(ids) if task["status"] == "completed"]

    def begun_again(self, ids: list[str]) -> list[str]:
        """Those that are in their second attempt, or in a later one."""
        return [str(task["_id"]) for task in self.tasks(ids) if task["attempts"] > 1]

    @contextmanager
    def case(self, report: Report, breaks: str, points: str) -> Iterator[Case]:
        """A case is in the table whatever happens in it; at its end every task must have ended, once."""
        case = Case(breaks, points)
        report.cases.append(case)
        since_s = monotonic()
        try:
            yield case
            until(lambda: self.all_ended(case.accepted), SETTLE_S)
        finally:
            self._close(case)
            case.duration_s = monotonic() - since_s
        assert (case.lost, case.doubled) == (0, 0), case

    def _close(self, case: Case) -> None:
        tasks = until(lambda: self.tasks(case.accepted), 30.0) if case.accepted else []
        case.ends = Counter(task["status"] for task in tasks if task["status"] in _ENDS)
        case.lost = len(case.accepted) - sum(case.ends.values())
        case.doubled = sum(self.wire.completed[task_id] > 1 for task_id in case.accepted)
        for task in tasks:
            if task["status"] == "completed":
                seen = until(partial(self.wire.saw_end, str(task["_id"])), 5.0)
                assert seen, "a task was completed past the observer"
            elif task["status"] == "failed":
                assert task["error"]["code"], "a failed task says why"
                assert task["error"]["message"], "a failed task says why"
