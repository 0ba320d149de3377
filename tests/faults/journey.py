"""Tasks brought to chosen points of their way, and held there: so a kill meets a task at each of them."""

from __future__ import annotations

import os
import signal
from threading import Event
from typing import Any

from tests.faults.houses import House, song_wav
from tests.faults.ledger import Case
from tests.faults.waiting import must

POINTS = ("queued", "fetching", "generating", "encoding", "storing")


class Journey:
    """Holds `per_point` tasks of a case at each point; `go_on` lets all of them move.

    The points are filled from the last to the first, so that no task has to pass one that is held.
    """

    def __init__(self, house: House, case: Case, per_point: int) -> None:
        self._house, self._case, self._per_point = house, case, per_point
        self._downloads: list[Event] = []
        self._body: dict[str, Any] = {}
        self.stopped: list[int] = []  # conductors under SIGSTOP

    def hold_at(self, point: str, **body: Any) -> list[str]:
        """Brings new tasks to a point; their ids.

        Args:
            body: of their POST, where they are not the usual short ones.
        """
        before = len(self._case.accepted)
        self._body = body
        getattr(self, f"_hold_{point}")()
        ids = self._case.accepted[before:]
        assert len(ids) == self._per_point
        return ids

    def hold_everywhere(self) -> None:
        for point in reversed(POINTS):
            self.hold_at(point)

    def open_doors(self) -> None:
        for door in ("generating", "encoding"):
            self._house.doors.open(door)

    def go_on(self) -> None:
        """Lets all tasks move, whatever holds them."""
        self.open_doors()
        for download in self._downloads:
            download.set()
        self._house.wire.release()
        for pid in self.stopped:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:  # it was the victim
                continue

    def _post(self, url: str | None = None) -> None:
        for _ in range(self._per_point):
            assert self._house.post(self._case, url, **self._body).status_code == 200

    def _hold_storing(self) -> None:
        """The result lies in the database, and the write that ends the task is on its way."""
        self._house.wire.hold()
        self._post()
        must(lambda: len(self._house.wire.held) == self._per_point, "results before their end")

    def _hold_encoding(self) -> None:
        self._hold_behind("encoding")

    def _hold_generating(self) -> None:
        self._hold_behind("generating")

    def _hold_behind(self, door: str) -> None:
        self._house.doors.shut(door)
        self._post()
        must(lambda: self._house.doors.waiting(door) == self._per_point, f"tasks that are {door}")

    def _hold_fetching(self) -> None:
        path = f"/held-{len(self._case.accepted)}-{id(self):x}.wav"
        song = self._house.media.put(path, song_wav())
        self._downloads.append(self._house.media.hold(path))
        self._post(song)
        assert self._house.media.wait_until_asked(path, 60), "downloads under way"
        ids = self._case.accepted[-self._per_point :]
        must(lambda: self._house.books.statuses(ids)["fetching"] == self._per_point, "tasks that are fetching")

    def _hold_queued(self) -> None:
        """Nobody is there to take them: every conductor stands still."""
        self.stopped = self._house.replicas("Conductor")
        for pid in self.stopped:
            os.kill(pid, signal.SIGSTOP)
        self._post()
