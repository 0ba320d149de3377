"""The page and the handbook: what they may load, how long they are kept, and that nothing comes from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from gary.api.page import page_routes
from gary.api.v1.problems import TITLES
from tests.api.conftest import Api


def _policy(answer: httpx.Response) -> dict[str, str]:
    parts = (part.strip().partition(" ") for part in answer.headers["content-security-policy"].split(";"))
    return {name: sources for name, _, sources in parts}


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html><title>page</title>")
    (tmp_path / "assets" / "index-4f2a.js").write_text("play()")
    return tmp_path


def _client(built: Path) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(page_routes(built))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gary.test")


async def test_the_page_is_asked_for_again_and_its_parts_are_not(built: Path) -> None:
    """A new build is seen at once; what has a hash in its name never changes."""
    async with _client(built) as http:
        page = await http.get("/")
        assert (page.status_code, page.headers["cache-control"]) == (200, "no-cache")
        assert "page" in page.text
        again = await http.get("/", headers={"If-None-Match": page.headers["etag"]})
        part = await http.get("/assets/index-4f2a.js")
        assert part.headers["content-type"].startswith("text/javascript")
        assert part.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert part.headers["service-worker-allowed"] == "/"
        assert (await http.get("/assets/../index.html")).status_code == 404
        assert (await http.get("/assets/%2e%2e/index.html")).status_code == 404
        assert again.status_code in {200, 304}


async def test_the_page_loads_nothing_from_elsewhere(built: Path) -> None:
    """No script but files of this service, no style in attributes, no frame; the microphone is for it alone."""
    async with _client(built) as http:
        page = await http.get("/")
    policy = _policy(page)
    assert policy["default-src"] == policy["script-src"] == policy["connect-src"] == "'self'"
    assert (policy["object-src"], policy["frame-ancestors"], policy["base-uri"]) == ("'none'",) * 3
    assert "unsafe" not in page.headers["content-security-policy"]
    assert not re.search(r"https?:|\*", page.headers["content-security-policy"])
    assert page.headers["permissions-policy"].startswith("microphone=(self)")


async def test_a_page_that_was_not_built_says_how(tmp_path: Path) -> None:
    async with _client(tmp_path / "none") as http:
        page = await http.get("/")
        assert "scripts/install" in page.text
        assert (await http.get("/assets/index.js")).status_code == 404


async def test_the_handbook_needs_no_script(api: Api) -> None:
    """Every route and every value of the description stands in it; its one style is allowed by its hash."""
    page = await api.http.get("/docs")
    description = (await api.http.get("/openapi.json")).json()
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script" not in page.text
    assert _policy(page)["script-src"] == "'none'"
    assert _policy(page)["style-src"].startswith("'sha256-")
    for path in description["paths"]:
        assert f"<code>{path}</code>" in page.text
    anchors = set(re.findall(r'id="([^"]+)"', page.text))
    assert set(description["components"]["schemas"]) <= anchors
    assert set(re.findall(r'href="#([^"]+)"', page.text)) <= anchors


async def test_every_problem_s_type_leads_to_its_code(api: Api) -> None:
    page = await api.http.get("/docs/errors")
    assert set(re.findall(r'<code id="([^"]+)"', page.text)) == set(TITLES)


async def test_the_description_is_complete(api: Api) -> None:
    """Each operation of /v1 has words, a tag, and errors as problem details; the bodies have examples."""
    description = (await api.http.get("/openapi.json")).json()
    operations = [
        operation
        for path, operations in description["paths"].items()
        if path.startswith("/v1/")
        for operation in operations.values()
    ]
    assert len(operations) == 10
    for operation in operations:
        assert operation["description"]
        assert operation["tags"]
        errors = [response for status, response in operation["responses"].items() if status >= "4"]
        assert {tuple(response["content"]) for response in errors} == {("application/problem+json",)}
    schemas = description["components"]["schemas"]
    assert schemas["TaskBody"]["examples"]
    assert schemas["ContinueTaskBody"]["examples"]
    assert "HTTPValidationError" not in schemas
