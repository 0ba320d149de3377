"""Server-sent events: what is told to whom, and one look at the store for all who listen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from gary.api.v1.events import Mark, news
from gary.api.v1.watch import Watch
from gary.errors import DatabaseUnavailable, FatalError, GaryError, MediaError, UnknownTask
from gary.tasks.task import Status, Step, Task
from tests.api.conftest import Api
from tests.api.music import begun, completed, created, finish, is_polling, over_http
from tests.api.test_v1_tasks import is_problem
from tests.unit.storing import GENERATE

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _task(*statuses: Status, frames_done: int = 0) -> Task:
    """A task that has come through these states."""
    steps = tuple(Step(seq=seq, status=status, at=NOW) for seq, status in enumerate(statuses, 1))
    fields: dict[str, Any] = {
        "id": "0" * 24,
        "status": statuses[-1],
        "job": GENERATE,
        "created_at": NOW,
        "queued_at": NOW,
    }
    return Task(**fields, steps=steps, frames_done=frames_done, frames_total=100, progress=frames_done / 100)


Q, F, G, E, C = Status.QUEUED, Status.FETCHING, Status.GENERATING, Status.ENCODING, Status.COMPLETED


@pytest.mark.parametrize(
    ("task", "heard", "told"),
    [
        (_task(Q), None, [("state", "1.0", Q)]),
        (_task(Q, F, G, frames_done=7), None, [("state", "3.7", G)]),
        (_task(Q, F, G, frames_done=7), "3.7", []),
        (_task(Q, F, G, frames_done=9), "3.7", [("progress", "3.9", G)]),
        (_task(Q, F, G, frames_done=9), "1.0", [("state", "2.0", F), ("state", "3.9", G)]),
        (
            _task(Q, F, G, E, C, frames_done=100),
            "2.0",
            [("state", "3.0", G), ("state", "4.0", E), ("state", "5.100", C)],
        ),
        (_task(Q, F, G, E, C, frames_done=100), "5.100", []),
        (_task(Q, F, Q, F), "2.0", [("state", "3.0", Q), ("state", "4.0", F)]),
        (_task(Q, F), "9.0", []),
        (_task(Q, F), "nonsense", [("state", "2.0", F)]),
    ],
)
def test_news(task: Task, heard: str | None, told: list[tuple[str, str, Status]]) -> None:
    """Every change of state since then, each once and in order, then the latest progress; nothing twice."""
    assert [(item.kind, str(item.mark), item.task.status) for item in news(task, Mark.parsed(heard))] == told


def test_a_state_that_was_missed_is_told_as_it_was() -> None:
    """With nothing in it that came later."""
    finished = _task(Q, F, C).model_copy(update={"finished_at": NOW, "expires_at": NOW})
    missed = news(finished, Mark(1, 0))[0].task
    assert (missed.status, missed.finished_at, missed.expires_at, missed.takes) == (F, None, None, ())
    encoding = news(_task(Q, F, G, E, C), Mark(3, 0))[0].task
    assert (encoding.status, encoding.progress, encoding.frames_done) == (E, 1.0, 100)


class Listening:
    """Events as they come over HTTP."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def next(self) -> dict[str, Any] | None:
        """An event's kind, id and task; None at the end. Comments are passed over."""
        event: dict[str, Any] = {}
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if not line and event:
                return event | {"task": json.loads(event["data"])}
            if name in {"event", "id", "data"}:
                event[name] = value
        return None

    async def rest(self) -> list[tuple[str, str, str]]:
        """Kind, id and state of all that comes."""
        found = []
        while (event := await self.next()) is not None:
            found.append((event["event"], event["id"], event["task"]["state"]))
        return found


@asynccontextmanager
async def _listening(http: httpx.AsyncClient, task_id: str, heard: str | None = None) -> AsyncIterator[Listening]:
    headers = {"Last-Event-ID": heard} if heard else {}
    async with http.stream("GET", f"/v1/tasks/{task_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")
        yield Listening(answer.aiter_lines())


async def test_a_task_is_told_to_its_end(api: Api) -> None:
    """Each change as it is seen, with the task as it is then; after the last the stream ends."""
    task_id = await created(api)
    async with over_http(api) as http, _listening(http, task_id) as listening:
        first = await listening.next()
        assert first is not None
        assert (first["event"], first["id"], first["task"]["state"]) == ("state", "1.0", "queued")
        assert first["task"]["queue"]["position"] == 1
        claim = await begun(api.store, task_id)
        seen = [await listening.next()]
        while seen[-1] is not None and seen[-1]["task"]["state"] != "generating":
            seen.append(await listening.next())
        await api.store.set_progress(claim, 0.5, 50, 100, 1.0)
        progress = await listening.next()
        assert progress is not None
        assert (progress["event"], progress["id"]) == ("progress", "3.50")
        assert progress["task"]["progress"]["frames_done"] == 50
        await finish(api.store, claim, 1)
        rest = await listening.rest()
    assert rest[-1] == ("state", rest[-1][1], "completed")
    assert [state for kind, _, state in rest if kind == "state"][-2:] == ["encoding", "completed"]


async def test_a_listener_comes_back(api: Api) -> None:
    """Told of all that it missed, and of nothing that it heard; nothing is left: 204, and browsers stay away."""
    task_id = await completed(api, 1)
    async with over_http(api) as http:
        async with _listening(http, task_id, "2.0") as listening:
            rest = await listening.rest()
            assert [state for _, _, state in rest] == ["generating", "encoding", "completed"]
        async with _listening(http, task_id) as listening:
            assert [state for _, _, state in await listening.rest()] == ["completed"]
        again = await http.get(f"/v1/tasks/{task_id}/events", headers={"Last-Event-ID": rest[-1][1]})
        assert (again.status_code, again.content) == (204, b"")


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_the_stream_ends_with_the_task(api: Api, end: str) -> None:
    task_id = await created(api)
    async with over_http(api) as http, _listening(http, task_id) as listening:
        await listening.next()
        if end == "failed":
            await api.store.fail(await begun(api.store, task_id), MediaError("no", "not_audio"))
        else:
            await api.store.cancel(task_id)
        assert (await listening.rest())[-1][2] == end


async def test_the_stream_ends_when_the_task_is_forgotten(api: Api) -> None:
    """While somebody listens to it the task may come to its end and go."""
    task_id = await created(api)
    async with over_http(api) as http, _listening(http, task_id) as listening:
        await listening.next()
        await api.store.cancel(task_id)
        await api.store.forget(task_id)
        await listening.rest()
    is_problem(await api.http.get(f"/v1/tasks/{task_id}/events"), 404, "unknown_task")


async def test_head_does_not_listen(api: Api) -> None:
    """A task that is not over would keep it for ever."""
    task_id = await created(api)
    answer = await api.http.head(f"/v1/tasks/{task_id}/events")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


class Book:
    """Tasks as the store tells them, and how often it was asked."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.asked: list[list[str]] = []
        self.fault: Exception | None = None

    async def watched(self, ids: Sequence[str]) -> Mapping[str, Task]:
        self.asked.append(sorted(ids))
        if self.fault is not None:
            raise self.fault
        return {task_id: self.tasks[task_id] for task_id in ids if task_id in self.tasks}


class Deaf(Book):
    """The poll's cancellation never reaches whoever asks this store, as pymongo can swallow one."""

    async def watched(self, ids: Sequence[str]) -> Mapping[str, Task]:
        answer = await super().watched(ids)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(5 if len(self.asked) == 1 else 0)
        return answer


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def _eventually(what: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(5):
        return await what()


async def test_one_look_for_all_listeners() -> None:
    """However many listen, one question a round; none any more when the last has gone."""
    book, task = Book(), _task(Q)
    book.tasks[task.id] = task
    watch = Watch(book, look_s=0.01)
    assert not watch.is_polling
    async with watch.listening(task) as one, watch.listening(task) as two, watch.listening(task):
        await _until(lambda: len(book.asked) > 2)
        book.tasks[task.id] = later = _task(Q, F)
        for listener in (one, two):
            assert await _eventually(listener.changed)
            assert listener.task == later
    assert {tuple(asked) for asked in book.asked} == {(task.id,)}
    assert not watch.is_polling
    rounds = len(book.asked)
    await asyncio.sleep(0.03)
    assert len(book.asked) == rounds


async def test_a_poll_ends_though_its_cancellation_is_swallowed() -> None:
    """Nobody asks any more once the last listener has gone."""
    book, task = Deaf(), _task(Q)
    book.tasks[task.id] = task
    watch = Watch(book, look_s=0.01)
    async with watch.listening(task):
        await _until(lambda: bool(book.asked))
    await asyncio.sleep(0.05)  # what goes on then would ask now
    rounds = len(book.asked)
    await asyncio.sleep(0.1)
    assert len(book.asked) == rounds


async def test_a_database_that_is_away_is_waited_for() -> None:
    """Nobody is sent away, and what happened meanwhile is told afterwards."""
    book, task = Book(), _task(Q)
    book.fault = DatabaseUnavailable("away")
    watch = Watch(book, look_s=0.01)
    async with watch.listening(task) as listener:
        await _until(lambda: len(book.asked) > 2)
        book.tasks[task.id] = _task(Q, F)
        book.fault = None
        assert await _eventually(listener.changed)
        assert listener.task.status is F


async def test_what_is_seen_late_is_not_told() -> None:
    """A look that was begun before the listener came does not take it back in time."""
    book, task = Book(), _task(Q, F)
    book.tasks[task.id] = _task(Q)
    watch = Watch(book, look_s=0.01)
    async with watch.listening(task) as listener:
        await _until(lambda: len(book.asked) > 2)
        assert not await listener.changed(within_s=0)
        assert listener.task == task


@pytest.mark.parametrize(
    ("fault", "told"),
    [(None, UnknownTask), (FatalError("broken"), FatalError), (RuntimeError("a bug"), FatalError)],
    ids=["forgotten", "fatal", "bug"],
)
async def test_nobody_waits_for_nothing(fault: Exception | None, told: type[GaryError]) -> None:
    """A task that is gone, a store that refuses, a fault of ours: each listener hears of it; and others can come."""
    book, task = Book(), _task(Q)
    book.fault = fault
    watch = Watch(book, look_s=0.01)
    async with watch.listening(task) as listener:
        with pytest.raises(told):
            await _eventually(listener.changed)
    book.fault, book.tasks[task.id] = None, _task(Q, F)
    async with watch.listening(task) as listener:
        assert await _eventually(listener.changed)


async def test_a_listener_that_goes_frees_everything(api: Api) -> None:
    """No poll of the store is left behind a client that hung up."""
    task_id = await created(api)
    async with over_http(api) as http:
        async with _listening(http, task_id) as listening:
            await listening.next()
        await _until(lambda: not is_polling())
