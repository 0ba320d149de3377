"""The same request under the same Idempotency-Key is done once."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from gary.config import AccessConfig, Limits
from tests.api.conftest import KEY, OTHER_KEY, Api, OpenApi, api_key, wav64


def _with(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


async def _continue(api: Api, task_id: str, key: str, audio: str, **more: object) -> httpx.Response:
    body = {"task_id": task_id, "audio": audio, "prompt_duration": 0.5} | more
    return await api.http.post("/continue", json=body, headers=_with(key))


async def test_a_repeated_generate_is_the_same_task(api: Api) -> None:
    """Numbers may be strings the second time; without a key, or with another, it is another task."""
    first = (await api.generate(_with("a"))).json()["task_id"]
    again = await api.generate(_with("a"), currentTime="12.0", promptLength="6")
    assert (again.status_code, again.json()) == (200, {"task_id": first})
    assert api.begun == [first]
    assert (await api.generate(_with("b"))).json()["task_id"] != first
    assert (await api.generate()).json()["task_id"] != first


async def test_a_repeated_continue_does_not_begin_again(api: Api) -> None:
    """The task keeps the job that it got the first time, however far it has come by then."""
    task_id = (await api.generate()).json()["task_id"]
    audio = wav64(1)
    assert (await _continue(api, task_id, "c", audio)).json() == {"task_id": task_id}
    claim = await api.store.claim(task_id, "test")
    assert claim is not None
    assert (await _continue(api, task_id, "c", "data:audio/wav;base64," + audio)).json() == {"task_id": task_id}
    assert (await api.store.get(task_id)).fence == claim.fence
    assert api.begun == [task_id, task_id]


async def test_another_request_under_the_same_key_is_refused(api: Api) -> None:
    """422, whatever it is that differs."""
    task_id = (await api.generate(_with("k"))).json()["task_id"]
    await _continue(api, task_id, "m", wav64(1))
    for answer in (
        await api.generate(_with("k"), currentTime=13),
        await _continue(api, task_id, "k", wav64(1)),
        await _continue(api, task_id, "m", wav64(1.1)),
        await _continue(api, task_id, "m", wav64(1), prompt_duration=0.6),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert len(api.begun) == 2


@pytest.mark.parametrize("number", [2, 8])
async def test_at_once(api: Api, number: int) -> None:
    """All are answered with one task, and the queue holds one."""
    answers = await asyncio.gather(*(api.generate(_with("k")) for _ in range(number)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["task_id"] for answer in answers}) == 1
    assert (await api.store.queue()).queued == 1


async def test_continued_at_once(api: Api) -> None:
    """Of two alike, one gives the task its new job: its fence rises once."""
    task_id = (await api.generate()).json()["task_id"]
    before = await api.store.get(task_id)
    audio = wav64(1)
    answers = await asyncio.gather(*(_continue(api, task_id, "k", audio) for _ in range(2)))
    assert [answer.json() for answer in answers] == [{"task_id": task_id}] * 2
    assert (await api.store.get(task_id)).fence == before.fence + 1


async def test_a_full_queue_still_answers_what_it_took(open_api: OpenApi) -> None:
    """A client whose first answer was lost asks again, and hears the id, not 429."""
    async with open_api(Limits(unfinished_tasks=1)) as api:
        first = await api.generate(_with("k"))
        again = await api.generate(_with("k"))
        assert (again.status_code, again.json()) == (200, first.json())


async def test_holders_have_keys_of_their_own(open_api: OpenApi) -> None:
    """Two clients that choose the same word have nothing to do with each other."""
    access = AccessConfig(api_keys=(api_key("alice", KEY), api_key("bob", OTHER_KEY)))
    async with open_api(access=access) as api:
        mine = (await api.generate(_with("1") | {"X-API-Key": KEY})).json()["task_id"]
        theirs = (await api.generate(_with("1") | {"X-API-Key": OTHER_KEY})).json()["task_id"]
        assert mine != theirs


@pytest.mark.parametrize(
    ("key", "status"),
    [("x" * 255, 200), ("!~", 200), ("x" * 256, 400), ("a b", 400), ("", 400), ("é", 400), ("a\tb", 400)],
    ids=range(7),
)
async def test_what_is_a_key(api: Api, key: str, status: int) -> None:
    """1 to 255 visible ASCII characters."""
    answer = await api.http.post(
        "/generate", json={"url": "https://youtu.be/dQw4w9WgXcQ"}, headers=[(b"Idempotency-Key", key.encode())]
    )
    assert answer.status_code == status, answer.text
    if status == 400:
        assert answer.json()["code"] == "invalid_input"
        assert api.begun == []
