"""A worker that was away for longer than its lease has lost its tasks, and whatever it writes then is refused."""

from __future__ import annotations

import os
import signal

from tests.faults.houses import House
from tests.faults.journey import Journey
from tests.faults.ledger import Report
from tests.faults.waiting import must


def test_a_worker_that_wakes_after_its_lease(house: House, report: Report) -> None:
    """It stood still with results in hand while another did its tasks again: one result of each remains."""
    with house.case(report, "SIGSTOP Conductor beyond its lease, SIGCONT", "generating, encoding") as case:
        journey = Journey(house, case, per_point=4)
        late = [*journey.hold_at("encoding"), *journey.hold_at("generating")]
        sleeper, _ = house.replicas("Conductor")
        os.kill(sleeper, signal.SIGSTOP)
        stolen = must(lambda: house.books.begun_again(late), "tasks claimed by another", 30)
        house.wire.hold()  # nobody ends a task before the sleeper is awake
        journey.open_doors()
        os.kill(sleeper, signal.SIGCONT)
        must(lambda: set(house.wire.held) == set(late), "every task's result, before its end")
        house.wire.release()
        case.note = f"{len(stolen)} stolen"
    assert case.ends["completed"] == len(case.accepted)
    house.wait_until_whole()
    house.check_nothing_leaks()


def test_a_completing_write_that_comes_too_late(house: House, report: Report) -> None:
    """The worker's last word is under way while its lease ends: the other's task is not touched by it."""
    with house.case(report, "SIGKILL Conductor, its last write arrives late", "storing") as case:
        journey = Journey(house, case, per_point=4)
        late = journey.hold_at("storing")
        for pid in house.replicas("Conductor"):
            os.kill(pid, signal.SIGKILL)
        must(lambda: len(house.books.begun_again(late)) == len(late), "all tasks claimed by another", 60)
        journey.go_on()
        must(lambda: all(house.wire.refused[task_id] for task_id in late), "the late writes' refusal")
    assert case.ends["completed"] == len(case.accepted)
    house.wait_until_whole()
