"""The database is away for a while: nothing accepted is lost, and whoever asks meanwhile hears so at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from threading import Event
from time import monotonic

import httpx
import pytest

from tests.faults.houses import House, kill
from tests.faults.journey import POINTS, Journey
from tests.faults.ledger import Case, Report
from tests.faults.waiting import must

ANSWER_S = 8.0  # the house's database may take 2 s to be found


def test_down_for_ten_seconds(house: House, report: Report) -> None:
    """It hangs, then goes on as if nothing had been: meanwhile 503, afterwards everything by itself."""
    with house.case(report, "SIGSTOP the database, SIGCONT 10 s later", ", ".join(POINTS)) as case:
        server = house.server()
        journey = Journey(house, case, per_point=2)
        journey.hold_everywhere()
        server.suspend()
        journey.go_on()
        since_s = monotonic()
        posts, gets = _ask_while(house, case, lambda: monotonic() - since_s < 10.0)
        server.resume()
        must(lambda: _status(house, case.accepted[0]) == 200, "GET recovers by itself", 20)
        case.note = f"POST {dict(posts)}, GET {dict(gets)} meanwhile"
    assert set(posts) == {503}
    assert set(gets) == {503}
    assert case.ends["completed"] == len(case.accepted)


@pytest.mark.parametrize("whole_replica", [False, True], ids=["server", "replica"])
def test_killed_and_restarted_on_its_files(house: House, report: Report, whole_replica: bool) -> None:
    """The server's process dies, or its owner and so both; what comes back has every task."""
    victim = "Database" if whole_replica else "the database's server"
    with house.case(report, f"kill -9 {victim}", ", ".join(POINTS)) as case:
        before = house.server().pid
        journey = Journey(house, case, per_point=2)
        journey.hold_everywhere()
        kill(house.replicas("Database") if whole_replica else [before])
        journey.go_on()
        since_s = monotonic()
        posts, gets = _ask_while(house, case, lambda: _status(house, case.accepted[0]) != 200)
        case.note = f"back after {monotonic() - since_s:.1f} s; POST {dict(posts)}, GET {dict(gets)} meanwhile"
    assert set(posts) <= {200, 503}
    assert set(gets) <= {200, 503}
    assert case.ends["completed"] == len(case.accepted)
    house.wait_until_whole()
    assert house.server().pid != before


def _ask_while(house: House, case: Case, goes_on: Callable[[], bool]) -> tuple[Counter[int], Counter[int]]:
    """How often POST and GET answered each code; 0 where there was no answer in ANSWER_S. Ids go into the book."""
    posts: Counter[int] = Counter()
    gets: Counter[int] = Counter()
    deadline_s = monotonic() + 60
    while goes_on() and monotonic() < deadline_s:
        try:
            posts[house.post(case, timeout_s=ANSWER_S).status_code] += 1
        except httpx.TimeoutException:
            posts[0] += 1
        gets[_status(house, case.accepted[0])] += 1
        Event().wait(0.2)
    return posts, gets


def _status(house: House, task_id: str) -> int:
    try:
        return house.http.get(f"/progress/{task_id}", timeout=ANSWER_S).status_code
    except httpx.TimeoutException:
        return 0
