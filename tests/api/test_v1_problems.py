"""Errors of /v1 are problem details, whoever raises them; every code is explained; answers carry what browsers need."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import gary
import gary.errors
from gary.api.errors import LastResort
from gary.api.v1.problems import TITLES
from gary.config import AccessConfig, Limits
from gary.errors import SOURCE_CODES, SOURCE_UNAVAILABLE_CODES, GaryError
from tests.api.conftest import KEY, Api, OpenApi, api_key
from tests.api.music import VIDEO, completed
from tests.api.test_v1_tasks import is_problem

TASK = {"source": {"url": VIDEO}}
# Of commands that are never asked over HTTP, and of the engine's own making.
NOT_SENT = {"database_in_use", "database_start"}


async def test_no_key(open_api: OpenApi) -> None:
    """401 of the doors, with the scheme to use; the page and the description stay open."""
    async with open_api(access=AccessConfig(api_keys=(api_key("alice", KEY),))) as api:
        refused = await api.http.post("/v1/tasks", json=TASK)
        is_problem(refused, 401, "unauthorized")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        is_problem(await api.http.get(f"/v1/tasks/{KEY}"), 400, "key_in_url")
        is_problem(await api.http.get("/v1/limits"), 401, "unauthorized")
        taken = await api.http.post("/v1/tasks", json=TASK, headers={"X-API-Key": KEY})
        assert taken.status_code == 202
        job = (await api.store.get(taken.json()["id"])).job
        assert job.model_dump()["holder"] == "alice"
        for path in ("/", "/docs", "/docs/errors", "/openapi.json", "/health"):
            assert (await api.http.get(path)).status_code == 200, path
        assert (await api.http.get("/assets/none.js")).status_code == 404


async def test_too_many_requests(open_api: OpenApi) -> None:
    async with open_api(access=AccessConfig(address_posts_per_minute=1)) as api:
        assert (await api.http.post("/v1/tasks", json=TASK)).status_code == 202
        refused = await api.http.post("/v1/tasks", json=TASK)
        is_problem(refused, 429, "rate_limited")
        assert int(refused.headers["retry-after"]) >= 1


async def test_too_large(open_api: OpenApi) -> None:
    async with open_api(Limits(body_bytes=100)) as api:
        is_problem(await api.http.post("/v1/tasks", content=b"x" * 101), 413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1", 404, "unknown_route"),
        ("GET", "/v1/", 404, "unknown_route"),
        ("GET", "/v1/nowhere", 404, "unknown_route"),
        ("GET", "/v1/tasks", 405, "method_not_allowed"),
        ("PUT", "/v1/limits", 405, "method_not_allowed"),
        ("TRACE", "/v1/models", 405, "method_not_allowed"),
    ],
)
async def test_what_there_is_not(api: Api, method: str, path: str, status: int, code: str) -> None:
    is_problem(await api.http.request(method, path), status, code)


async def test_a_405_names_every_method(api: Api) -> None:
    """Of all the routes at that address."""
    answer = await api.http.post("/v1/tasks/" + "0" * 24)
    is_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "DELETE, GET, HEAD"


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", "invalid_input"), (b"{", "not_json"), (b"[" * 99 + b"]" * 99, "json_too_deep"), (b"[]", "invalid_input")],
)
async def test_what_is_no_json(api: Api, body: bytes, code: str) -> None:
    answer = await api.http.post("/v1/tasks", content=body, headers={"Content-Type": "application/json"})
    is_problem(answer, 400, code)


async def test_an_error_quotes_little_of_what_it_was_sent(api: Api) -> None:
    """A long key or value in the wrong place is not repeated."""
    for body in ({"k" * 100_000: 1}, {"source": "v" * 100_000}, {**TASK, "model": "m" * 100_000}):
        answer = await api.http.post("/v1/tasks", json=body)
        is_problem(answer, 400, "invalid_input")
        assert len(answer.content) < 3000


async def test_what_nobody_foresaw() -> None:
    """500, with nothing of the failure in it."""

    async def broken(scope: object, receive: object, send: object) -> None:
        raise RuntimeError("secret detail")

    transport = httpx.ASGITransport(LastResort(broken))
    async with httpx.AsyncClient(transport=transport, base_url="http://gary.test") as http:
        answer = await http.get("/v1/x")
    is_problem(answer, 500, "internal")
    assert "secret" not in answer.text


async def test_without_a_database(open_api: OpenApi) -> None:
    async with open_api(uri="mongodb://127.0.0.1:9/") as api:
        for answer in (await api.http.post("/v1/tasks", json=TASK), await api.http.get("/v1/tasks/" + "0" * 24)):
            is_problem(answer, 503, "database_unavailable")
            assert int(answer.headers["retry-after"]) >= 1


async def test_answers_are_not_kept_or_framed(api: Api) -> None:
    """Whatever a browser is shown of them; audio may be kept, and is asked for again."""
    task_id = await completed(api, 1)
    for path in (f"/v1/tasks/{task_id}", "/v1/limits", "/v1/nowhere", f"/v1/tasks/{task_id}/audio"):
        headers = (await api.http.get(path)).headers
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == ("private, no-cache" if path.endswith("audio") else "no-store")


async def test_the_old_routes_keep_their_form(api: Api) -> None:
    answer = await api.generate(currentTime=-1)
    assert set(answer.json()) == {"error", "code"}
    assert "content-security-policy" not in answer.headers


def _codes_raised() -> Iterator[str]:
    """Every code that the library gives an error by name, and every class's own."""
    classes = {
        name: kind for name, kind in vars(gary.errors).items() if isinstance(kind, type) and issubclass(kind, GaryError)
    }
    yield from (kind.default_code for kind in classes.values())
    assert gary.__file__ is not None
    root = Path(gary.__file__).parent
    for path in (
        path for part in ("api", "audio", "engine", "sources", "tasks") for path in (root / part).rglob("*.py")
    ):
        if "node_modules" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in classes:
                given = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "code")]
                yield from (str(code.value) for code in given if isinstance(code, ast.Constant))


def test_every_code_is_explained() -> None:
    """Those that a request may be answered with and those that a task may fail with."""
    codes = {*_codes_raised(), *SOURCE_CODES, *SOURCE_UNAVAILABLE_CODES}
    assert len(codes) > 50
    assert codes - NOT_SENT - set(TITLES) == set()
