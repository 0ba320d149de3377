"""The ingress as Ray Serve runs it: behind its HTTP proxy, with its logs, and with nobody to ask about health."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import httpx
import pytest
import ray
from ray import serve

from deployments import ingress
from gary.config import AccessConfig, DatabaseConfig
from tests.api.conftest import KEY, api_key
from tests.running import Running

BAD_KEY = "gk-unknown-9e77"


@pytest.fixture(scope="module")
def guarded(service: Running) -> Iterator[httpx.Client]:
    """An ingress of its own that asks for a key, allows few POSTs a minute, and whose database is not there."""
    access = AccessConfig(api_keys=(api_key("alice", KEY),), key_posts_per_minute=3, address_posts_per_minute=4)
    args = service.args.model_copy(update={"access": access, "database": DatabaseConfig(timeout_s=20)})
    application = ingress.deployment.bind(args, "mongodb://127.0.0.1:9/", None, None)
    serve.run(application, name="guarded", route_prefix="/guarded")
    with httpx.Client(base_url=f"{service.base_url}/guarded", timeout=30, headers={"X-API-Key": KEY}) as http:
        yield http
    serve.delete("guarded")


def test_health_is_bounded(guarded: httpx.Client) -> None:
    """The answer comes long before the database driver gives up, and says what is down."""
    since_s = monotonic()
    answer = httpx.get(f"{guarded.base_url}health")
    assert monotonic() - since_s < 4.5
    assert answer.status_code == 503
    health = answer.json()
    assert (health["mongodb"], health["status"], health["queue"]) == ("down", "down", None)
    assert health["ray"] == "down", "an application without conductor, fetcher and cropper"
    assert health["models"]["gary-tiny"] == {"size": "tiny", "replicas_ready": 0}


def test_an_answer_has_one_id(guarded: httpx.Client) -> None:
    """Serve's proxy names the request; we do not name it again."""
    assert guarded.get("/nowhere", headers={"X-Request-Id": "mine-1"}).headers.get_list("x-request-id") == ["mine-1"]
    assert len(guarded.get("/nowhere").headers.get_list("x-request-id")) == 1


def test_the_address_comes_through(guarded: httpx.Client) -> None:
    """Clients are told apart by address: Serve hands it on, and believes X-Forwarded-For of a proxy on loopback."""

    def status(address: str) -> int:
        headers = {"X-API-Key": "no", "X-Forwarded-For": address}
        return guarded.post("/nowhere", headers=headers).status_code

    assert [status("203.0.113.1") for _ in range(5)] == [401, 401, 401, 401, 429]
    assert status("203.0.113.2") == 401


def test_rates_hold(guarded: httpx.Client) -> None:
    answers = [guarded.post("/nowhere") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [404, 404, 404, 429]
    assert int(answers[-1].headers["retry-after"]) >= 1


@pytest.mark.parametrize("url", [f"/tasks/{KEY}", f"/tasks/{BAD_KEY}", f"/health?key={KEY}", f"/x/{KEY}?a={BAD_KEY}"])
def test_no_key_in_any_log(guarded: httpx.Client, url: str) -> None:
    """Whichever header or URL it came in, no log of Serve's, Ray's or ours has it, though each request is logged."""
    for headers in ({"X-API-Key": KEY}, {"X-API-Key": BAD_KEY}, {"Authorization": f"Bearer {KEY}"}):
        guarded.get(url, headers=headers)
    logs = _logs()
    assert "GET /guarded" in logs
    assert KEY not in logs
    assert BAD_KEY not in logs


def _logs() -> str:
    """Everything that this Ray has logged, of every process."""
    node = ray._private.worker._global_node
    assert node is not None
    directory = Path(node.get_logs_dir_path())
    return "\n".join(file.read_text(errors="replace") for file in directory.rglob("*") if file.is_file())
