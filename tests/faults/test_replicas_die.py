"""Replicas are killed with SIGKILL while tasks stand at every point of their way: each task is completed once."""

from __future__ import annotations

import threading
from random import Random
from time import monotonic

import httpx
import pytest

from tests.faults.houses import WORKERS, House, kill
from tests.faults.journey import POINTS, Journey
from tests.faults.ledger import Report
from tests.faults.waiting import must


@pytest.mark.parametrize("victim", WORKERS)
def test_killed_with_tasks_at_every_point(house: House, report: Report, chance: Random, victim: str) -> None:
    """What was done is begun again, the batch's neighbours' too, and nobody's task fails for another's death."""
    with house.case(report, f"kill -9 {victim}", ", ".join(POINTS)) as case:
        journey = Journey(house, case, per_point=2)
        journey.hold_everywhere()
        kill([chance.choice(house.replicas(victim))])
        journey.go_on()
    assert case.ends["completed"] == len(case.accepted)
    house.wait_until_whole()
    house.check_nothing_leaks()


@pytest.mark.parametrize("victim", WORKERS)
def test_killed_at_random_moments(house: House, report: Report, chance: Random, victim: str) -> None:
    """Six tasks run freely, some of them long; the replica dies twice, whenever that may be."""
    moments_s = [chance.uniform(0.2, 2.5), chance.uniform(0.5, 4.0)]
    points = " and ".join(f"{moment_s:.1f} s" for moment_s in moments_s)
    with house.case(report, f"kill -9 {victim}, twice", points) as case:
        for number in range(6):
            assert house.post(case, duration="28-30" if number % 2 else "3-4").status_code == 200
        for moment_s in moments_s:
            threading.Event().wait(moment_s)
            kill([chance.choice(must(lambda: house.replicas(victim), f"a replica of {victim}"))])
    assert case.ends["completed"] == len(case.accepted)
    house.wait_until_whole()
    house.check_nothing_leaks()


def test_the_conductors_tasks_are_taken_over_within_the_lease(house: House, report: Report) -> None:
    """From the kill to the other's claim: the lease, a sweep and no more; then progress goes on."""
    tasks = house.args.tasks
    with house.case(report, "kill -9 Conductor, its tasks' next claim", "generating") as case:
        journey = Journey(house, case, per_point=6)
        ids = journey.hold_at("generating")
        dead, _ = house.replicas("Conductor")
        since_s = monotonic()
        kill([dead])
        must(lambda: house.books.begun_again(ids), "a task claimed again", 30)
        first_s = monotonic() - since_s
        journey.go_on()
        case.note = f"claimed again after {first_s:.1f} s, lease {tasks.lease_s:g} s"
    assert first_s <= tasks.lease_s + tasks.sweep_s + 1.0
    assert case.ends["completed"] == len(case.accepted)


def test_an_ingress_killed_is_not_missed(house: House, report: Report, chance: Random) -> None:
    """HTTP is back within 3 s, and no task hears of it."""
    with house.case(report, "kill -9 Ingress", ", ".join(POINTS)) as case:
        journey = Journey(house, case, per_point=2)
        journey.hold_everywhere()
        with _Poller(house, case.accepted[0]) as poller:
            kill([chance.choice(house.replicas("Ingress"))])
            since_s = monotonic()
            journey.go_on()
            must(lambda: monotonic() - since_s > 5.0 and poller.answers_s, "5 s of polling")
        back_s = max((failed_s - since_s for failed_s in poller.failures_s), default=0.0)
        case.note = f"{len(poller.failures_s)} of {len(poller.failures_s) + len(poller.answers_s)} polls failed"
        case.note += f", the last {back_s:.2f} s after the kill"
    assert back_s < 3.0
    assert case.ends["completed"] == len(case.accepted)
    assert {task["attempts"] for task in house.books.tasks(case.accepted)} == {1}, "no task was begun again"


class _Poller:
    """A client that asks for progress without a pause, and notes when it was answered and when not."""

    def __init__(self, house: House, task_id: str) -> None:
        self.answers_s: list[float] = []
        self.failures_s: list[float] = []
        self._base_url, self._path = house.http.base_url, f"/progress/{task_id}"
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> _Poller:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._enough.set()
        self._thread.join()

    def _poll(self) -> None:
        with httpx.Client(base_url=self._base_url, timeout=3) as http:
            while not self._enough.wait(0.02):
                try:
                    answered = http.get(self._path).status_code == httpx.codes.OK
                except httpx.TransportError:
                    answered = False
                (self.answers_s if answered else self.failures_s).append(monotonic())
