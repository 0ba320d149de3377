"""One line a request, refused or not, that says who asked."""

from __future__ import annotations

import json
import logging

import pytest

from gary.api.access_log import AccessLog
from gary.config import AccessConfig
from gary.logs import JsonLines
from tests.api.conftest import KEY, OpenApi, api_key


def _logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(JsonLines().format(record)) for record in caplog.records if record.name.endswith("access_log")]


async def test_a_line_says_who_asked_what(open_api: OpenApi, caplog: pytest.LogCaptureFixture) -> None:
    """The holder of a known key; the address behind the proxy, also of those who are refused; HEAD as it was sent."""
    caplog.set_level(logging.INFO, "gary")
    access = AccessConfig.model_validate({"api_keys": (api_key("alice", KEY),), "trusted_proxies": ("127.0.0.1",)})
    async with open_api(access=access) as api:
        there = {"X-Forwarded-For": "192.0.2.7"}
        answer = await api.generate({**there, "X-API-Key": KEY})
        await api.generate(there)
        await api.http.head("/health", headers=there)
        await api.http.get("/v1/limits", headers={**there, "X-API-Key": KEY})
    answered, refused, head, limits = _logged(caplog)
    assert limits["path"] == "/v1/limits"
    assert (answered["method"], answered["path"], answered["status"]) == ("POST", "/generate", 200)
    assert (answered["holder"], answered["client"]) == ("alice", "192.0.2.7")
    assert answered["task_id"] == answer.json()["task_id"]
    assert (refused["status"], refused["client"], refused["path"]) == (401, "192.0.2.7", "(no route)")
    assert "holder" not in refused
    assert (head["method"], head["path"], head["status"]) == ("HEAD", "/health", 200)
    assert KEY not in caplog.text


async def test_a_request_that_nobody_waits_for_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    """Without a status, since none was sent."""
    caplog.set_level(logging.INFO, "gary")

    async def app(*_: object) -> None:
        raise ConnectionResetError

    async def unused(*_: object) -> None:
        raise AssertionError

    with pytest.raises(ConnectionResetError):
        await AccessLog(app)({"type": "http", "method": "GET"}, unused, unused)  # type: ignore[arg-type]
    (line,) = _logged(caplog)
    assert (line["method"], line.get("status")) == ("GET", None)
