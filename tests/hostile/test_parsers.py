"""Every parser that reads what strangers or children of ours send, against whatever Hypothesis thinks of."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gary.audio.files import _AU_HEADER, SAMPLE_MAX, _read_au
from gary.errors import InvalidInput, MediaError, RecoverableError, SourceError, SourceUnavailable
from gary.links import parse_link
from gary.sources.failures import Symptom, classify, error_for
from gary.sources.guard import AddressRefused, Guard, is_public
from gary.sources.protocol import MESSAGES, Done, Downloaded, Failed, Job

MANY = settings(max_examples=500, deadline=None)
LISTED = ("files.example.org", "127.0.0.1:8400", "[::1]:8400")
ALLOWED_HOSTS = {"www.youtube.com", "soundcloud.com", "files.example.org", "127.0.0.1", "::1"}

Value = TypeVar("Value")
Error = TypeVar("Error", bound=Exception)


def _or_error(parse: Callable[[], Value], kind: type[Error]) -> Value | Error:
    """What a parser makes of its input, or the one error that it may raise."""
    try:
        return parse()
    except kind as error:
        return error


_url_parts = st.lists(
    st.sampled_from(["http", "https", "://", "//", ":", "@", "/", "\\", "?", "#", "[", "]", "%00", "%2e", "%40", "\n"])
    | st.sampled_from(["youtube.com", "youtu.be/", "www.youtube.com/watch?v=", "dQw4w9WgXcQ", "soundcloud.com/", "a/b"])
    | st.sampled_from([*LISTED, "127.0.0.1", "2130706433", "0x7f.1", "::ffff:127.0.0.1", ".evil.tld", "。", "ｙ"])
    | st.text(max_size=4),
    max_size=12,
).map("".join)


@MANY
@given(_url_parts | st.text(max_size=3000))
def test_a_link_that_passes_leads_to_a_served_host(text: str) -> None:
    """Any text is refused, or becomes a plain URL whose host, as the standard library reads it, is a served one."""
    link = _or_error(lambda: parse_link(text, LISTED), InvalidInput)
    if isinstance(link, InvalidInput):
        assert link.code == "unsupported_url"
        assert len(link.message) < 300
        return
    parts = urlsplit(link.url)
    assert parts.scheme in {"http", "https"}
    assert parts.hostname in ALLOWED_HOSTS
    assert parts.username is None
    assert link.url.isascii()
    assert link.url.isprintable()
    assert " " not in link.url
    address = link.literal_address()
    assert address is None or address in {("127.0.0.1", 8400), ("::1", 8400)}


_messages = st.fixed_dictionaries(
    {"kind": st.sampled_from(["progress", "done", "failed", "job"]) | st.text(max_size=5)},
    optional={
        "downloaded_bytes": st.integers() | st.none() | st.floats() | st.text(max_size=3),
        "total_bytes": st.integers() | st.none() | st.floats(),
        "title": st.none() | st.text(max_size=400),
        "duration_s": st.none() | st.floats() | st.integers(),
        "code": st.sampled_from(["geo", "upstream", "internal"]) | st.text(max_size=5),
        "detail": st.text(max_size=2100),
        "more": st.integers(),
    },
)


@MANY
@given(_messages)
def test_a_message_is_within_its_bounds_or_refused(message: dict[str, object]) -> None:
    """What the fetching process says is taken as one of three values, within bounds, or not at all."""
    try:
        value = MESSAGES.validate_python(message)
    except ValidationError:
        return
    match value:
        case Downloaded():
            assert value.downloaded_bytes >= 0
        case Done():
            assert value.duration_s is None or 0 < value.duration_s < float("inf")
            assert value.title is None or len(value.title) <= 300
        case Failed():
            assert error_for(value.code).code == value.code


@MANY
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_lines_and_jobs_that_are_none(line: bytes) -> None:
    """Bytes that are no message and no job are a ValueError, which is what the callers look for."""
    for parse in (MESSAGES.validate_json, Job.model_validate_json):
        with pytest.raises(ValueError, match=r"."):
            parse(line)


@MANY
@given(
    st.frozensets(st.sampled_from(["HTTPError", "AddressRefused", "GeoRestrictedError"]) | st.text(max_size=8)),
    st.none() | st.integers(),
    st.text(max_size=300),
)
def test_every_failure_has_a_code_and_a_sentence(kinds: frozenset[str], status: int | None, text: str) -> None:
    """Whatever a site shows, the failure is one of our errors, and nothing of the text is in it."""
    error = error_for(classify(Symptom(kinds, status, text)))
    assert isinstance(error, SourceError | SourceUnavailable | RecoverableError)
    assert len(text) < 20 or text not in error.message


@MANY
@given(st.ip_addresses() | st.text(max_size=40), st.integers(0, 70_000))
def test_the_guard_lets_only_public_addresses_through(host: object, port: int) -> None:
    """Any address or text: a connection is let through only to what the standard library, too, calls global."""
    try:
        Guard(None, None)("socket.connect", (object(), (str(host), port)))
    except AddressRefused:
        assert not is_public(str(host))
    else:
        address = ipaddress.ip_address(str(host))
        inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
        assert inner.is_global or address in ipaddress.ip_network("64:ff9b::/96")
        assert not inner.is_loopback
        assert not inner.is_private


@MANY
@given(st.text(max_size=30) | st.binary(max_size=10) | st.none(), st.integers() | st.none() | st.text(max_size=5))
def test_the_guard_looks_up_only_listed_names(host: object, port: object) -> None:
    """Any name and port but a listed one is refused before the resolver is asked."""
    guard = Guard(None, None, ("files.example.org", ".site.example", "127.0.0.1:8400"))
    with pytest.raises(AddressRefused):
        guard("socket.getaddrinfo", (host, port, 0, 0, 0))
    for name, number in (
        ("files.example.org", 443),
        ("a.site.example", 80),
        ("127.0.0.1", 8400),
        (b"site.example", 80),
    ):
        guard("socket.getaddrinfo", (name, number, 0, 0, 0))


_headers = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1) | st.integers(7_990, 192_010),
    st.integers(0, 2**32 - 1) | st.integers(0, 10),
)


@MANY
@given(_headers, st.binary(max_size=600))
def test_the_decoders_output_is_a_clip_or_refused(header: tuple[int, int, int, int], samples: bytes) -> None:
    """ffmpeg repeats rates and channels that a stranger's file claims: they give a clip within bounds, or an error."""
    offset, size, rate_hz, channels = header
    data = bytearray(_AU_HEADER.pack(b".snd", offset, size, 6, rate_hz, channels) + samples)
    clip = _or_error(lambda: _read_au(data), MediaError)
    if isinstance(clip, MediaError):
        assert clip.code in {"unsupported_rate", "unsupported_channels"}
        return
    assert clip is not None
    assert 1 <= clip.channels <= 8
    assert 8_000 <= clip.rate_hz <= 192_000
    assert clip.samples.size == 0 or abs(clip.samples).max() <= SAMPLE_MAX


def test_less_than_a_header_is_nothing() -> None:
    """Where ffmpeg wrote not even a header there is no clip."""
    assert _read_au(bytearray(struct.pack(">4s", b".snd"))) is None
