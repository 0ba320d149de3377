"""Every parser of what a client sends over HTTP, on anything: a value within its bounds, or one of our errors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gary.api.access import KeyRing, ProxyChain
from gary.api.json_body import DEPTH_MAX, parse_json
from gary.api.schemas import Body, CombineBody, ContinueBody, CropBody, ExportBody, GenerateBody, decode_base64
from gary.config import AccessConfig, ApiKey
from gary.errors import ClientError, InvalidInput, Unauthorized
from gary.links import parse_link

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NUMBERS = (
    st.floats()
    | st.integers()
    | st.floats().map(str)
    | st.from_regex(r"[ +-]?[0-9_٣.,eE]{1,8}[ a-z]?", fullmatch=True)
    | JSON_VALUES
)
NAMES = st.sampled_from(
    [
        "url",
        "currentTime",
        "model",
        "promptLength",
        "prompt_duration",
        "duration",
        "task_id",
        "audio",
        "audioData",
        "audioClips",
        "start",
        "end",
        "x",
    ]
)
BODIES = [GenerateBody, ContinueBody, CropBody, CombineBody, ExportBody]
FIELDS = st.dictionaries(NAMES, NUMBERS | st.lists(st.text(max_size=5), max_size=3))
many = settings(max_examples=400, deadline=None)
T = TypeVar("T")


def _attempt(parse: Callable[[], T]) -> T | ClientError:
    """What the parser makes of its input, or how it refuses it; any other exception is a failure."""
    try:
        return parse()
    except ClientError as error:
        return error


@many
@given(
    st.sampled_from(BODIES), st.dictionaries(NAMES, NUMBERS | st.lists(st.text(max_size=5), max_size=3)) | JSON_VALUES
)
def test_bodies(body: type[Body], values: Any) -> None:
    """A body is refused as a whole, or all its numbers are finite and in range."""
    try:
        read = body.model_validate(values)
    except ValidationError:
        return
    for name, value in read:
        if name.endswith("_s"):
            assert math.isfinite(value)
            assert value >= 0


@many
@given(NUMBERS)
def test_numbers(value: Any) -> None:
    """What is taken for a number is what Python, too, reads from it; true and false are none."""
    try:
        seconds = CropBody.model_validate({"audioData": "x", "start": value, "end": 1}).start_s
    except ValidationError:
        return
    assert not isinstance(value, bool)
    assert seconds == (0.0 if value is None else float(value))


@many
@given(st.from_regex(r" ?[0-9]{1,6}(\.[0-9]{1,3})? ?[-–] ?[0-9]{0,3}", fullmatch=True) | st.text(max_size=30))
def test_ranges(duration: str) -> None:
    """A duration rises within the model's window, or is refused with a sentence about it."""
    body = GenerateBody.model_validate({"url": "u", "duration": duration, "promptLength": 0.01})
    found = _attempt(lambda: body.range_s(30))
    if isinstance(found, ClientError):
        assert re.search("duration|promptLength", found.message)
    else:
        assert 0 < found[0] <= found[1] <= 30


@many
@given(st.text(max_size=50) | st.from_regex(r"(data:[a-z]*/?[a-z;=]*,)?[A-Za-z0-9+/\s-]*={0,3}", fullmatch=True))
def test_base64(text: str) -> None:
    """Bytes, at least one, and no more than three quarters of the text; or a code."""
    found = _attempt(lambda: decode_base64(text, "audio"))
    if isinstance(found, ClientError):
        assert found.code in ("not_base64", "empty_audio")
    else:
        assert 0 < len(found) <= len(text) * 3 / 4


def _depth(value: Any) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


@many
@given(JSON_VALUES)
def test_json_is_read_as_python_reads_it(value: Any) -> None:
    """Within the bounds nothing changes; what is no JSON (NaN, lone halves of characters) is refused."""
    text = json.dumps(value)
    try:
        read = parse_json(text.encode())
    except InvalidInput:
        assert re.search("NaN|Infinity", text)
        return
    assert read == value
    assert _depth(read) <= DEPTH_MAX


@many
@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:0 eE-\\u', max_size=200).map(str.encode))
def test_json_of_any_bytes(body: bytes) -> None:
    """A value, or a code."""
    found = _attempt(lambda: parse_json(body))
    assert not isinstance(found, ClientError) or found.code in ("not_json", "json_too_deep", "json_too_complex")


@many
@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda data: data.decode("latin-1")))
def test_links(url: str) -> None:
    """What leaves the parser is printable ASCII of a served host, or it is refused."""
    found = _attempt(lambda: parse_link(url, ["files.example.org"]))
    if isinstance(found, ClientError):
        assert found.code == "unsupported_url"
    else:
        assert re.fullmatch(r"https?://(www\.youtube\.com|soundcloud\.com|files\.example\.org)/[!-~]*", found.url)


@many
@given(st.none() | st.text(max_size=40), st.none() | st.text(max_size=40))
def test_keys(authorization: str | None, x_api_key: str | None) -> None:
    """No text is a key that is not known, and the refusal holds none of it."""
    ring = KeyRing([ApiKey(name="alice", sha256="0" * 64)])
    found = _attempt(lambda: ring.holder(authorization, x_api_key))
    assert isinstance(found, Unauthorized)
    assert found.message in REFUSALS


REFUSALS = {
    str(_attempt(lambda: KeyRing([]).holder(None, None))),
    str(_attempt(lambda: KeyRing([]).holder(None, "x"))),
}
ADDRESSES = st.ip_addresses().map(str) | st.sampled_from(["10.0.0.7", "unknown", "", "1.2.3.4:5", "[::1]:5"])


@many
@given(ADDRESSES | st.text(max_size=20), st.lists(ADDRESSES | st.text(max_size=20), max_size=40).map(",".join))
def test_forwarded_addresses(peer: str, forwarded_for: str) -> None:
    """Always an address or `unknown`; behind a peer that is not trusted, always the peer's."""
    access = AccessConfig.model_validate({"trusted_proxies": ["10.0.0.0/8"]})
    client = ProxyChain(access.trusted_proxies).client(peer, forwarded_for)
    assert client == "unknown" or ip_address(client)
    assert ProxyChain([]).client(peer, forwarded_for) == ProxyChain([]).client(peer, "")
