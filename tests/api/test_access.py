"""Who is let in, and how often: keys, addresses behind proxies, rates, origins. No key comes out again."""

from __future__ import annotations

import hashlib
import logging
from time import monotonic
from typing import Any

import pytest

from gary.api.access import Caller, KeyRing, ProxyChain, RateLimits
from gary.config import AccessConfig
from gary.errors import TooManyRequests
from tests.api.conftest import KEY, OTHER_KEY, Api, OpenApi, api_key

TASK = "/tasks/" + "0" * 24


def _locked(**more: Any) -> AccessConfig:
    return AccessConfig.model_validate({"api_keys": (api_key("alice", KEY), api_key("bob", OTHER_KEY)), **more})


def _is_error(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert set(answer.json()) == {"error", "code"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {OTHER_KEY} "},
        {"X-API-Key": KEY},
        {"X-API-Key": KEY, "Authorization": "Basic abc"},
    ],
)
async def test_a_known_key_opens(open_api: OpenApi, headers: dict[str, str]) -> None:
    """In either header, whichever of the keys it is."""
    async with open_api(access=_locked()) as api:
        assert (await api.generate(headers)).status_code == 200
        assert (await api.http.get(TASK, headers=headers)).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {hashlib.sha256(KEY.encode()).hexdigest()}"},
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": "ключ".encode()},
        {"X-API-Key": b"\xff\xfe"},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {KEY}"},
    ],
    ids=range(10),
)
async def test_nobody_else_is_let_in(open_api: OpenApi, headers: dict[str, str]) -> None:
    """401 and how to authenticate, on every route, existing or not; nothing has begun."""
    async with open_api(access=_locked()) as api:
        for answer in (
            await api.generate(headers),
            await api.http.get(TASK, headers=headers),
            await api.http.get("/nowhere", headers=headers),
        ):
            _is_error(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert api.begun == []


@pytest.mark.parametrize("path", ["/health", "/docs", "/openapi.json"])
async def test_what_is_open_to_all(open_api: OpenApi, path: str) -> None:
    """Health for whoever balances load, and the description that tells where a key goes."""
    async with open_api(access=_locked()) as api:
        assert (await api.http.get(path)).status_code == 200
        assert (await api.http.get(path, headers={"X-API-Key": "wrong"})).status_code == 200


async def test_a_preflight_needs_no_key(open_api: OpenApi) -> None:
    """Browsers send none with it; the header that carries one is allowed, and a refusal can be read."""
    asked = {
        "Origin": "https://x.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-api-key,idempotency-key",
    }
    async with open_api(access=_locked()) as api:
        answer = await api.http.options("/generate", headers=asked)
        assert answer.status_code == 200
        assert "authorization" in answer.headers["access-control-allow-headers"]
        refused = await api.generate({"Origin": "https://x.example"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")


async def test_origins_are_those_of_the_list(open_api: OpenApi) -> None:
    """A page of another origin gets no header that would let it read; what a page may read is exposed."""
    async with open_api(access=AccessConfig(cors_origins=("https://gary4web.example",))) as api:
        known = await api.generate({"Origin": "https://gary4web.example"})
        assert known.headers["access-control-allow-origin"] == "https://gary4web.example"
        assert "Retry-After" in known.headers["access-control-expose-headers"]
        assert "X-Request-Id" in known.headers["access-control-expose-headers"]
        unknown = await api.generate({"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in unknown.headers


@pytest.mark.parametrize(
    "url",
    [
        f"/tasks/{KEY}",
        f"/nowhere/{KEY}/more",
        f"/health?key={KEY}",
        f"/generate?{KEY}",
        f"/progress/x?a=1&access_token={OTHER_KEY}",
        f"/tasks/gk%2D{KEY[3:]}",
    ],
)
async def test_a_key_in_a_url_is_refused(open_api: OpenApi, url: str) -> None:
    """With a sentence that says what to do, before any route could quote it."""
    async with open_api(access=_locked()) as api:
        answer = await api.http.get(url, headers={"X-API-Key": KEY})
        _is_error(answer, 400, "key_in_url")


async def test_no_key_comes_out(open_api: OpenApi, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a good nor a bad key is in any answer, header or log record; the holder's name stands for a good one."""
    caplog.set_level(logging.DEBUG)
    bad = "gk-not-known-here"
    shown = []
    async with open_api(access=_locked()) as api:
        for key in (KEY, bad):
            for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
                shown += [
                    await api.generate(headers),
                    await api.generate(headers, duration="soon"),
                    await api.http.get(TASK, headers=headers),
                    await api.http.get("/tasks/zz", headers=headers),
                    await api.http.put("/generate", headers=headers),
                    await api.http.get(f"/tasks/{key}", headers=headers),
                    await api.http.get(f"/nowhere/{key}?k={key}", headers=headers),
                ]
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("gary")]
    assert any("for alice" in line for line in ours)
    texts = [answer.text + str(answer.headers) for answer in shown]
    assert not [text for text in texts if KEY in text or bad in text]
    # the HTTP client beneath the tests logs the URLs that it was given; it is no part of the service
    theirs = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert not [record for record in theirs if KEY in str(vars(record)) or bad in record.getMessage()]
    assert KEY not in str(_locked())
    assert KEY not in repr(vars(KeyRing(_locked().api_keys)))


def test_every_key_is_compared() -> None:
    """Which of many keys fits makes no difference to what is done: the last and the first are both found."""
    ring = KeyRing([api_key(f"holder-{number}", f"key-{number}") for number in range(100)])
    assert ring.find("key-0") == "holder-0"
    assert ring.find("key-99") == "holder-99"
    assert ring.find("key-100") is None
    assert ring.find("") is None


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "1.2.3.4", "203.0.113.9"),  # a stranger's word about itself
        ("10.0.0.5", "", "10.0.0.5"),
        ("10.0.0.5", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.5", "1.2.3.4, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.5", "1.2.3.4, 203.0.113.9, 10.0.0.6", "203.0.113.9"),
        ("10.0.0.5", "10.0.0.6,10.0.0.7", "10.0.0.6"),
        ("10.0.0.5", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.5", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.5", "203.0.113.9, unknown", "10.0.0.5"),
        ("10.0.0.5", "203.0.113.9, <script>", "10.0.0.5"),
        ("::ffff:10.0.0.5", "203.0.113.9", "203.0.113.9"),
        ("fd00::1", "2001:db8::2", "2001:db8::2"),
        (None, "203.0.113.9", "unknown"),
        ("testclient", "203.0.113.9", "unknown"),
    ],
)
def test_a_clients_address(peer: str | None, forwarded_for: str, client: str) -> None:
    """The rightmost address that is not a trusted proxy's; what a client wrote before it counts for nothing."""
    access = AccessConfig.model_validate({"trusted_proxies": ["10.0.0.0/8", "fd00::1"]})
    assert ProxyChain(access.trusted_proxies).client(peer, forwarded_for) == client


def test_a_trusted_proxy_is_an_address_or_a_network() -> None:
    """What is neither is refused when the settings are read."""
    with pytest.raises(ValueError, match="trusted_proxies"):
        AccessConfig.model_validate({"trusted_proxies": ["proxy.example"]})


def test_a_caller_is_shown_by_its_name() -> None:
    assert str(Caller("203.0.113.9", "alice")) == "alice"
    assert str(Caller("203.0.113.9")) == "203.0.113.9"


def _is_rate_limited(answer: Any) -> None:
    _is_error(answer, 429, "rate_limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 61


async def test_posts_are_limited_per_address(open_api: OpenApi) -> None:
    """At the edge: as many as may be, then 429 with Retry-After; GETs and other addresses go on; nothing has begun."""
    async with open_api(access=AccessConfig(address_posts_per_minute=3)) as api:
        for _ in range(3):
            assert (await api.generate()).status_code == 200
        _is_rate_limited(await api.generate())
        _is_rate_limited(await api.http.post("/nowhere"))
        assert (await api.http.get("/health")).status_code == 200
        async with api.asking_from("203.0.113.7") as other:
            assert (await other.post("/generate", json={})).status_code == 400
        assert len(api.begun) == 3


async def test_posts_are_limited_per_key(open_api: OpenApi) -> None:
    """By the holder, wherever the requests come from; another holder's are counted apart."""
    async with open_api(access=_locked(key_posts_per_minute=2)) as api:
        mine, theirs = {"X-API-Key": KEY}, {"X-API-Key": OTHER_KEY}
        assert (await api.generate(mine)).status_code == 200
        async with api.asking_from("203.0.113.7") as elsewhere:
            assert (await elsewhere.post("/generate", json={}, headers=mine)).status_code == 400
            _is_rate_limited(await elsewhere.post("/generate", json={}, headers=mine))
        _is_rate_limited(await api.generate(mine))
        assert (await api.generate(theirs)).status_code == 200


async def test_guesses_at_keys_are_limited(open_api: OpenApi) -> None:
    """Wrong keys use up the address's POSTs."""
    async with open_api(access=_locked(address_posts_per_minute=2)) as api:
        for _ in range(2):
            _is_error(await api.generate({"X-API-Key": "guess"}), 401, "unauthorized")
        _is_rate_limited(await api.generate({"X-API-Key": "guess"}))


async def test_clients_behind_a_proxy_are_told_apart(open_api: OpenApi) -> None:
    """A trusted proxy's clients each have their own rate; without trust the header changes nothing."""
    access = {"address_posts_per_minute": 1, "trusted_proxies": ["127.0.0.1"]}
    async with open_api(access=AccessConfig.model_validate(access)) as api:
        assert (await api.generate({"X-Forwarded-For": "203.0.113.1"})).status_code == 200
        assert (await api.generate({"X-Forwarded-For": "203.0.113.2"})).status_code == 200
        _is_rate_limited(await api.generate({"X-Forwarded-For": "9.9.9.9, 203.0.113.1"}))
    async with open_api(access=AccessConfig(address_posts_per_minute=1)) as api:
        assert (await api.generate({"X-Forwarded-For": "203.0.113.1"})).status_code == 200
        _is_rate_limited(await api.generate({"X-Forwarded-For": "203.0.113.2"}))


async def test_an_ipv6_network_is_one_client() -> None:
    """The 2^64 addresses of one subscriber share one rate."""
    rates = RateLimits(AccessConfig(address_posts_per_minute=1))
    await rates.count_address("2001:db8::1")
    await rates.count_address("2001:db8:0:1::1")
    with pytest.raises(TooManyRequests):
        await rates.count_address("2001:db8::ffff:2")


async def test_retry_after_is_true() -> None:
    """Who is refused is served again, and no later than the refusal said."""
    rates = RateLimits(AccessConfig(address_posts_per_minute=2), window_s=1)

    async def refusal() -> TooManyRequests | None:
        try:
            await rates.count_address("192.0.2.1")
        except TooManyRequests as error:
            return error
        return None

    while (refused := await refusal()) is None:
        pass
    since_s = monotonic()
    while await refusal() is not None:
        assert monotonic() - since_s <= refused.retry_after_s + 0.2
    assert 0 < refused.retry_after_s <= 1


async def test_no_rate_unless_configured(api: Api) -> None:
    """The old clients know of none."""
    for _ in range(30):
        assert (await api.http.post("/generate", json={})).status_code == 400
