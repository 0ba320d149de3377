"""A task's waits and attempts as spans, told by whoever ends them in the store; and the requests it comes from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI

from deployments.metrics import Meter
from deployments.spans import Ended, within
from deployments.task_trace import Acceptances, note_accepted
from deployments.tracing import Tracing
from deployments.witness import TaskWitness
from gary.config import DatabaseConfig, TasksConfig
from gary.errors import DeviceError, LeaseLost, SourceError
from gary.tasks.store import TaskStore
from gary.tasks.task import Status
from tests.unit.metering import Kept
from tests.unit.storing import CONTINUE, GENERATE, MUSIC, QUICK_LEASE, claimed, composed, is_claimable, until

TASK = "6921f0c2a7b1c3d4e5f60718"


@pytest.fixture
def told() -> list[Ended]:
    return []


@asynccontextmanager
async def traced(
    uri: str, config: DatabaseConfig, told: list[Ended], tasks: TasksConfig | None = None
) -> AsyncIterator[tuple[TaskStore, Tracing]]:
    tracing = Tracing(told.append)
    witness = TaskWitness(Meter(Kept()), tracing)
    store = TaskStore(uri, config, tasks or TasksConfig(), witness=witness)
    await store.open()
    try:
        yield store, tracing
    finally:
        await store.close()


def place(ended: Ended) -> str:
    return f"00-{ended.trace_id}-{ended.span_id}-01"


def outcomes(told: list[Ended]) -> list[tuple[object, object, str | None]]:
    """Number, outcome and code of the attempts, in order."""
    attempts = [ended for ended in told if ended.name == "attempt"]
    return [(ended.facts["gary.attempt"], ended.facts["gary.outcome"], ended.code) for ended in attempts]


async def test_a_task_that_goes_well(uri: str, config: DatabaseConfig, told: list[Ended]) -> None:
    """One wait and one attempt after it, both below the request; the attempt is where its worker says it is."""
    async with traced(uri, config, told) as (store, tracing):
        task = await composed(store, await store.create(MUSIC))
        queued, attempt = told
        assert (queued.name, attempt.name) == ("queued", "attempt")
        assert queued.parent_id == attempt.parent_id
        assert f"00-{attempt.trace_id}-{attempt.parent_id}-01" == tracing.root(task.id)
        assert place(attempt) == tracing.attempt(task.id, task.fence)
        assert queued.begin_ns <= queued.end_ns == attempt.begin_ns <= attempt.end_ns
        assert attempt.facts == {
            "gary.task_id": task.id,
            "gary.job": "music",
            "gary.attempt": 1,
            "gary.worker": "worker",
            "gary.model": "gary-tiny",
            "gary.takes": 2,
            "gary.outcome": "completed",
        }


async def test_each_attempt_is_told(uri: str, config: DatabaseConfig, told: list[Ended]) -> None:
    """One that is released by its code, the wait after it, the last one by the failure's."""
    async with traced(uri, config, told, TasksConfig(backoff_s=0)) as (store, _):
        task_id = await store.create(GENERATE)
        await store.release(await claimed(store, task_id), DeviceError("the device failed"))
        await store.fail(await claimed(store, task_id), SourceError("https://host/private", "private"))
    assert [ended.name for ended in told] == ["queued", "attempt", "queued", "attempt"]
    assert outcomes(told) == [(1, "released", "device_failed"), (2, "failed", "private")]
    assert told[1].end_ns <= told[2].begin_ns
    assert "host" not in repr(told)


async def test_an_attempt_whose_worker_died_is_told_by_the_next(
    uri: str, config: DatabaseConfig, told: list[Ended]
) -> None:
    """Once, as far as its lease went; by the one that finds it, even where that one only gives the task up.

    What the lost worker may still say of its end is refused by the store, and told by nobody.
    """
    tasks = QUICK_LEASE.model_copy(update={"max_attempts": 2})
    async with traced(uri, config, told, tasks) as (store, tracing):
        first = await claimed(store)
        task_id = first.task.id
        await until(lambda: is_claimable(store, task_id))
        second = await claimed(store, task_id)
        with pytest.raises(LeaseLost):
            await store.fail(first, DeviceError("late"))
        await until(lambda: is_claimable(store, task_id))
        assert await store.claim(task_id, "worker") is None
        assert outcomes(told) == [(1, "lost", "lease_lost"), (2, "lost", "lease_lost")]
        attempts = [ended for ended in told if ended.name == "attempt"]
        assert [place(ended) for ended in attempts] == [tracing.attempt(task_id, c.fence) for c in (first, second)]
        assert attempts[0].end_ns - attempts[0].begin_ns == 50_000_000
        stages = [ended for ended in told if ended.name == "fetching"]
        assert [place(ended) for ended in stages] == [within(place(ended), "fetching") for ended in attempts]
        assert [ended.parent_id for ended in stages] == [ended.span_id for ended in attempts]


async def test_who_cancels_or_restarts_ends_the_attempt(uri: str, config: DatabaseConfig, told: list[Ended]) -> None:
    """A task that is worked on has its attempt told, no error; one that waits has none. A new job has others."""
    async with traced(uri, config, told) as (store, tracing):
        claim = await claimed(store)
        await store.cancel(claim.task.id)
        assert outcomes(told) == [(1, "cancelled", None)]
        await store.cancel(await store.create(GENERATE))
        assert len(told) == 2
        await store.restart(claim.task.id, CONTINUE, b"an upload")
        again = await claimed(store, claim.task.id)
        await store.restart(claim.task.id, CONTINUE, b"another")
        assert outcomes(told)[1:] == [(1, "restarted", None)]
        assert place(told[-1]) == tracing.attempt(claim.task.id, again.fence) != tracing.attempt(claim.task.id, 1)


async def test_an_older_version_s_task_is_passed_over(uri: str, config: DatabaseConfig, told: list[Ended]) -> None:
    """One whose steps were never recorded."""
    async with traced(uri, config, told) as (store, _):
        task_id = await store.create(GENERATE)
        await store._table._tasks.update_many({}, {"$set": {"steps": []}})
        claim = await claimed(store, task_id)
        assert claim.task.status is Status.FETCHING
        assert told == []


def app(store: TaskStore, tracing: Tracing) -> FastAPI:
    """Tasks from POSTs as the API makes them."""
    api = FastAPI()

    @api.post("/make/{what}")
    async def make(what: str) -> str:
        if what == "nothing":
            return ""
        task_id = await store.create(GENERATE)
        note_accepted(task_id)
        return task_id

    @api.post("/again/{task_id}")
    async def again(task_id: str) -> None:
        await store.restart(task_id, CONTINUE, b"an upload")
        note_accepted(task_id)

    api.add_middleware(Acceptances, tracing=tracing, route_of=lambda scope: scope["route"].path)
    return api


async def test_the_request_that_made_a_task_is_the_root(uri: str, config: DatabaseConfig, told: list[Ended]) -> None:
    """By its route's pattern; one that gave it another job is below; any other is in no trace, whatever it says."""
    async with traced(uri, config, told) as (store, tracing):
        transport = httpx.ASGITransport(app(store, tracing))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            foreign = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
            task_id = (await http.post("/make/task?token=secret", headers=foreign)).json()
            await http.post("/make/nothing", headers=foreign)
            await http.post(f"/again/{task_id}")
        made, again = told
        assert (made.name, made.parent_id, place(made)) == ("accept", None, tracing.root(task_id))
        assert made.facts == {
            "gary.task_id": task_id,
            "http.request.method": "POST",
            "http.route": "/make/{what}",
            "http.response.status_code": 200,
        }
        assert (again.trace_id, again.parent_id) == (made.trace_id, made.span_id)
        assert again.span_id != made.span_id
        assert again.facts["http.route"] == "/again/{task_id}"
