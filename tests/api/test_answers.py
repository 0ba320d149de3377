"""What every answer carries, errors and unusual methods among them; and what /health says."""

from __future__ import annotations

import httpx
import pytest
from starlette.types import Send

from gary.api.errors import LastResort
from tests.api.conftest import Api, OpenApi


async def _any_answers(api: Api) -> list[httpx.Response]:
    """One of each kind."""
    return [
        await api.http.get("/health"),
        await api.generate(),
        await api.http.get("/docs"),
        await api.generate(currentTime=-1),
        await api.http.get("/nowhere"),
        await api.http.delete("/generate"),
        await api.http.post("/export-to-mp3", content=b"A" * 2_000_001),
        await api.http.options("/health", headers={"Origin": "x", "Access-Control-Request-Method": "GET"}),
    ]


async def test_every_answer_says_what_it_is(api: Api) -> None:
    """No browser guesses at types, and each can be told from others by its id; preflights and refusals too."""
    answers = await _any_answers(api)
    assert {answer.headers["x-content-type-options"] for answer in answers} == {"nosniff"}
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("7f3c-1", True),
        ("Root:1-67891233", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("a b", False),
        ("<b>", False),
        ("", False),
    ],
)
async def test_a_sane_request_id_is_kept(api: Api, given: str, taken: bool) -> None:
    answer = await api.http.get("/health", headers={"X-Request-Id": given})
    assert (answer.headers["x-request-id"] == given) is taken
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "unknown_route"),
        ("GET", "/v2", 404, "unknown_route"),
        ("POST", "/", 405, "method_not_allowed"),
        ("POST", "/generate/", 404, "unknown_route"),
        ("GET", "/tasks/", 404, "unknown_route"),
        ("GET", "/generate", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("OPTIONS", "/generate", 405, "method_not_allowed"),
        ("TRACE", "/generate", 405, "method_not_allowed"),
    ],
)
async def test_unknown_routes_and_methods(api: Api, method: str, path: str, status: int, code: str) -> None:
    """JSON in the usual form; a 405 says what would be allowed. A plain OPTIONS is no preflight."""
    answer = await api.http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"error", "code"}
    allowed = {"/generate": "POST", "/health": "GET, HEAD", "/": "GET, HEAD"}
    assert answer.headers.get("allow") == allowed.get(path if status == 405 else "")


@pytest.mark.parametrize("path", ["/health", "/docs", "/tasks/" + "0" * 24, "/nowhere"])
async def test_head_is_get_without_a_body(api: Api, path: str) -> None:
    """Same status, same headers, nothing else."""
    got, head = await api.http.get(path), await api.http.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.headers["content-length"] == str(len(got.content))


async def test_what_nobody_foresaw_is_500_in_the_usual_form() -> None:
    """With nothing of the failure in it; and not logged by its URL."""

    async def broken(scope: object, receive: object, send: object) -> None:
        raise RuntimeError("secret detail")

    transport = httpx.ASGITransport(LastResort(broken))
    async with httpx.AsyncClient(transport=transport, base_url="http://gary.test") as http:
        answer = await http.get("/x")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text


async def test_half_an_answer_is_not_called_whole() -> None:
    """What fails after the status was sent breaks the connection instead."""

    async def breaks(scope: object, receive: object, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("in the middle")

    transport = httpx.ASGITransport(LastResort(breaks))
    async with httpx.AsyncClient(transport=transport, base_url="http://gary.test") as http:
        with pytest.raises(RuntimeError):
            await http.get("/x")


async def test_health_says_how_busy_the_house_is(api: Api) -> None:
    """The old words, the queue as the store counts it, and who is ready by the names that clients send."""
    empty = (await api.http.get("/health")).json()
    assert {key: empty[key] for key in ("mongodb", "pytorch", "ray", "status")} == dict.fromkeys(
        ("mongodb", "pytorch", "ray", "status"), "live"
    )
    assert empty["queue"] == {"queued": 0, "working": 0, "oldest_waiting_s": None, "finished_per_minute": None}
    assert empty["models"]["gary-tiny"] == {"size": "tiny", "replicas_ready": 1}
    for _ in range(3):
        task_id = (await api.generate()).json()["task_id"]
    assert await api.store.claim(task_id, "test")
    busy = (await api.http.get("/health")).json()["queue"]
    assert (busy["queued"], busy["working"]) == (2, 1)
    assert 0 <= busy["oldest_waiting_s"] < 30


@pytest.mark.parametrize("down", ["mongodb", "pytorch", "ray"])
async def test_health_names_what_is_down(api: Api, down: str) -> None:
    """503, and null for a queue that cannot be counted."""
    api.down.add(down)
    answer = await api.http.get("/health")
    assert answer.status_code == 503
    assert (answer.json()["status"], answer.json()[down]) == ("down", "down")
    assert (answer.json()["queue"] is None) is (down == "mongodb")


async def test_without_a_database_requests_are_503(open_api: OpenApi) -> None:
    """In the time that the store takes to give up, with a word on when to come again."""
    async with open_api(uri="mongodb://127.0.0.1:9/") as api:
        for answer in (await api.generate(), await api.http.get("/tasks/" + "0" * 24)):
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
