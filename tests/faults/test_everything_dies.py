"""Every process of the service is killed at once; what starts again on the same data ends what was begun."""

from __future__ import annotations

from tests.faults.houses import Landlord, Plan
from tests.faults.journey import POINTS, Journey
from tests.faults.ledger import Report
from tests.faults.waiting import must


def test_restarted_on_the_same_data(landlord: Landlord, report: Report) -> None:
    """Ray, Serve, every replica, the database, downloads: all gone. Unfinished tasks run to completion."""
    house = landlord.let(Plan())
    with house.case(report, "kill -9 everything", ", ".join(POINTS)) as case:
        ended = [house.post(case).json()["task_id"] for _ in range(2)]
        must(lambda: house.books.all_ended(ended), "two tasks' ends")
        journey = Journey(house, case, per_point=2)
        journey.hold_everywhere()
        killed = house.kill_everything()
        journey.go_on()
        again = landlord.rebuild(house)
        case.note = f"{killed} processes"
        must(lambda: house.books.all_ended(case.accepted), "every task's end", 120)
        house.http = again.http
    assert case.ends["completed"] == len(case.accepted)
    assert len(house.books.begun_again(ended)) == 0, "what had ended is not begun again"
    again.wait_until_whole()
    again.check_nothing_leaks()
