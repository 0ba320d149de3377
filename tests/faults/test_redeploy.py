"""A new version is deployed while tasks are under way: the old replicas end what they have begun."""

from __future__ import annotations

from random import Random
from threading import Event

from tests.faults.houses import WORKERS, House, Landlord, Plan
from tests.faults.journey import Journey
from tests.faults.ledger import Case, Report
from tests.faults.waiting import must

REPLACED = (*WORKERS, "Ingress")
POINTS = ("storing", "encoding", "generating", "fetching")


def test_with_the_service_own_database(house: House, report: Report, chance: Random) -> None:
    """The database is deployed anew too, and is away for a moment: nothing is lost, and nothing completed twice."""
    before = house.server().pid
    with house.case(report, "redeploy, the database too", ", ".join(reversed(POINTS))) as case:
        answers = _redeploy(house, case, chance)
        case.note = f"POST {answers}, attempts {_attempts(house, case)}"
    assert set(answers) <= {200, 503}
    assert case.ends["completed"] == len(case.accepted)
    house.wait_until_whole()
    assert house.server().pid != before
    house.check_nothing_leaks()


def test_with_a_database_apart(landlord: Landlord, report: Report, chance: Random) -> None:
    """As in production, by `serve deploy`: nobody waits for an answer, and no task is begun again."""
    house = landlord.let(Plan(own_database=False, dashboard=True))
    with house.case(report, "serve deploy, the database apart", ", ".join(reversed(POINTS))) as case:
        answers = _redeploy(house, case, chance)
        case.note = f"POST {answers}, attempts {_attempts(house, case)}"
    assert set(answers) == {200}
    assert case.ends["completed"] == len(case.accepted)
    assert set(_attempts(house, case)) == {1}, "a replica that drains ends what it has begun"
    house.wait_until_whole()
    house.check_nothing_leaks()


def _redeploy(house: House, case: Case, chance: Random) -> list[int]:
    """Replaces every replica while tasks are held, at a moment of chance; what four POSTs in between were answered."""
    before = {name: set(house.replicas(name)) for name in REPLACED}
    journey = Journey(house, case, per_point=2)
    for point in POINTS:
        journey.hold_at(point)
    house.ask("deploy")
    Event().wait(chance.uniform(0.5, 3.0))
    answers = [house.post(case).status_code for _ in range(4)]
    journey.go_on()

    def replaced() -> bool:
        after = {name: set(house.replicas(name)) for name in REPLACED}
        return all(after[name] and not after[name] & before[name] for name in REPLACED)

    must(replaced, "new replicas in the place of all old ones", 120)
    must(lambda: house.books.all_ended(case.accepted), "every task's end", 120)
    return answers


def _attempts(house: House, case: Case) -> list[int]:
    return sorted(task["attempts"] for task in house.books.tasks(case.accepted))
