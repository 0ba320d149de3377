"""A task's events over connections that break."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gary.client import Client, Patience, Refused, ServiceUnreachable, State
from tests.fake_v1 import USUAL_STEPS, Answer, FakeService, as_json, fake_service

ATTEMPTS = 3
IDS = [step_id for step_id, _ in USUAL_STEPS]


@pytest.fixture
def house() -> Iterator[FakeService]:
    with fake_service() as service:
        yield service


@pytest.fixture
def client(house: FakeService) -> Iterator[Client]:
    with Client(house.base_url, patience=Patience(attempts=ATTEMPTS, pause_s=0.0)) as client:
        yield client


def test_every_step_is_told_once(house: FakeService, client: Client) -> None:
    """In order, with the task as it stood, and nothing for the pings in between."""
    events = list(client.events(house.add()))
    assert [event.id for event in events] == IDS
    assert [event.kind for event in events] == ["state", "state", "state", "progress", "state", "state"]
    assert events[0].task.queue is not None
    assert events[0].task.queue.position == 2
    assert events[3].task.progress is not None
    assert events[3].task.progress.fraction == 0.5
    assert events[-1].task.state is State.COMPLETED


def test_a_stream_that_is_cut_goes_on_where_it_was(house: FakeService, client: Client) -> None:
    """However often, as long as each connection brings something: none is left out, none is told twice."""
    house.cut_events = [1, 1, 1, 1, 1]
    task_id = house.add()
    assert [event.id for event in client.events(task_id)] == IDS
    assert [asked.headers.get("last-event-id") for asked in house.requests] == [None, *IDS[:-1]]


def test_a_stream_that_brings_nothing_is_given_up(house: FakeService, client: Client) -> None:
    """After as many connections in a row as it is patient for; those that brought something do not count."""
    house.cut_events = [0, 0, 2, *[0] * ATTEMPTS]
    task_id = house.add()
    told: list[State] = []
    with pytest.raises(ServiceUnreachable):
        client.wait(task_id, lambda task: told.append(task.state))
    assert told == [State.QUEUED, State.FETCHING]
    assert house.count("GET", f"/v1/tasks/{task_id}/events") == 2 + ATTEMPTS


def test_refused_connections_count_too(house: FakeService, client: Client) -> None:
    """One that is closed before its answer is like one that brings nothing."""
    task_id = house.add()
    route = ("GET", f"/v1/tasks/{task_id}/events")
    house.hang_up = [route] * (ATTEMPTS - 1)
    assert [event.id for event in client.events(task_id)] == IDS


def test_only_what_came_after(house: FakeService, client: Client) -> None:
    assert [event.id for event in client.events(house.add(), last_id=IDS[3])] == IDS[4:]


def test_an_unknown_task_has_no_events(client: Client) -> None:
    """It is asked for once."""
    with pytest.raises(Refused) as caught:
        list(client.events("f" * 24))
    assert caught.value.code == "unknown_task"


def test_what_is_no_stream_of_events_is_not_taken_for_one(house: FakeService, client: Client) -> None:
    """Some other program's answer is an error, not silence."""
    house.answers["GET", "/v1/tasks/x/events"] = as_json({})
    with pytest.raises(ServiceUnreachable):
        list(client.events("x"))


def test_a_task_that_is_over_has_no_more_events(house: FakeService, client: Client) -> None:
    """The service says so by 204 to somebody who has heard all of it."""
    task_id = house.add(state="completed")
    house.answers["GET", f"/v1/tasks/{task_id}/events"] = Answer(204)
    assert list(client.events(task_id, last_id=IDS[-1])) == []
    assert client.wait(task_id).state is State.COMPLETED


def test_waiting_tells_how_it_goes(house: FakeService, client: Client) -> None:
    """Each event's task is shown; what is returned is the task as it stands at the end."""
    shown: list[State] = []
    task = client.wait(house.add(), lambda task: shown.append(task.state))
    assert shown[0] is State.QUEUED
    assert shown[-1] is State.COMPLETED
    assert len(shown) == len(IDS)
    assert [take.seed for take in task.takes] == [7]
