"""What a log line says, and what it never says."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gary.logs import (
    EXCEPTION_CHARACTERS,
    MESSAGE_CHARACTERS,
    JsonLines,
    Origin,
    TextLines,
    about,
    clean,
    note_task,
    relay,
    request_id_of,
)

TASK = "0123456789abcdef01234567"
KEY = "k3y-of-somebody"
AUDIO = np.random.default_rng(0).integers(0, 256, 750_000, np.uint8).tobytes()  # noise: nothing in it repeats
BASE64 = base64.b64encode(AUDIO).decode()


def _record(message: object, *args: object, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("gary.test", logging.WARNING, __file__, 1, message, args, None)
    record.__dict__.update(fields)
    return record


def _line(record: logging.LogRecord, request_id: str = "") -> dict[str, Any]:
    line = JsonLines(Origin("Cropper", "c1", lambda: request_id)).format(record)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def _raised(error: Exception) -> logging.LogRecord:
    record = _record("it failed")
    try:
        raise error
    except type(error):
        record.exc_info = sys.exc_info()
    return record


def test_a_line_is_one_object_that_says_when_who_and_what() -> None:
    """Time is ISO 8601 in UTC; line breaks stay inside of the one line."""
    before = datetime.now(UTC)
    line = _line(_record("%d files\nin %s", 3, "all", size_bytes=7), "abc")
    assert before <= datetime.fromisoformat(line.pop("time")) <= datetime.now(UTC)
    assert line == {
        "level": "WARNING",
        "logger": "gary.test",
        "message": "3 files\nin all",
        "deployment": "Cropper",
        "replica": "c1",
        "request_id": "abc",
        "size_bytes": 7,
    }


def test_unknown_fields_are_not_written() -> None:
    """Neither what a library puts on its records nor what somebody adds without thinking of it here."""
    assert {"body", "job_id"}.isdisjoint(_line(_record("x", body=BASE64, job_id="1")))


def test_the_task_comes_from_the_context_or_from_the_request_id() -> None:
    """The context's own word counts first; an ordinary request id, or one that only looks like it, is no task."""
    assert _line(_record("x"), request_id_of(TASK))["task_id"] == TASK
    with about("f" * 24):
        assert _line(_record("x"), request_id_of(TASK))["task_id"] == "f" * 24
    for request_id in (TASK, f"task-{TASK}0", "task-", ""):
        assert "task_id" not in _line(_record("x"), request_id)


def test_a_strangers_word_is_no_task_id() -> None:
    """What stands in a URL in the place of an id is noted only where it has an id's form."""
    note_task("../../etc/passwd")
    assert "task_id" not in _line(_record("x"))


def test_an_exceptions_body_is_not_written() -> None:
    """A megabyte of base64 in an exception's text leaves its type, where it came from, and no audio."""
    line = _line(_raised(ValueError(f"cannot parse {BASE64}")))
    assert "ValueError: cannot parse" in line["exception"]
    assert "_raised" in line["exception"]
    assert not _holds_audio(json.dumps(line))


@pytest.mark.parametrize("wrapped_at", [76, 1000])
@pytest.mark.parametrize("form", ["{}", "data:audio/wav;base64,{}", '{{"audioData": "{}"}}', "clip\n{}\nend"])
def test_base64_is_not_written(form: str, wrapped_at: int) -> None:
    """In whatever it is wrapped, short or long."""
    for length in (200, len(BASE64)):
        rows = [BASE64[at : at + wrapped_at] for at in range(0, length, wrapped_at)]
        for joint in ("", "\n", "\\n"):
            assert not _holds_audio(clean(form.format(joint.join(rows))))


def test_bytes_are_not_written() -> None:
    """Neither as an argument, nor as a message, nor as their repr in a sentence, whole or cut short by somebody."""
    for value in (AUDIO, bytearray(AUDIO), memoryview(AUDIO), np.frombuffer(AUDIO, np.uint8).data):
        assert _line(_record("got %s", value))["message"] == f"got [cut:{len(AUDIO)}]"
    assert _line(_record(AUDIO))["message"] == f"[cut:{len(AUDIO)}]"
    assert _line(_record("x", path=AUDIO[:50]))["path"] == "[cut:50]"
    for text in (repr(AUDIO[:100]), repr(AUDIO), repr(AUDIO)[:900], f"[(b'x', {AUDIO[:30]!r})]"):
        assert "\\x" not in clean(f"no audio: {text}")


def _holds_audio(text: str) -> bool:
    """Any 40 characters of the base64 in a row, wherever they are from."""
    known = {BASE64[at : at + 20] for at in range(0, len(BASE64) - 20, 20)}
    return any(text[at : at + 20] in known for at in range(len(text)))


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {KEY}",
        f"authorization: {KEY}",
        f"Authorization: Digest username=a, response={KEY}",
        f"X-API-Key: {KEY}",
        f"x-api-key={KEY}",
        f"{{'Authorization': 'Bearer {KEY}', 'Accept': '*/*'}}",
        f'{{"x-api-key": "{KEY}"}}',
        f'{{\\"x-api-key\\": \\"{KEY}\\"}}',
        f"[('x-api-key', '{KEY}')]",
        f"[(b'authorization', b'Bearer {KEY}')]",
        f"Headers({{'cookie': 'a=1; session={KEY}'}})",
        f"Cookie: a=1; session={KEY}; b=2",
        f"Set-Cookie: session={KEY}; HttpOnly",
        f"api_key={KEY}&x=1",
        f"password: '{KEY} and more'",
        f"access_token = {KEY}",
        f"it sent bearer {KEY}.",
        f"https://host.example/a?token={KEY}",
        f"https://host.example/a?x={KEY}",
        f"https://host.example/a#{KEY}?v=abc",
        f"mongodb://root:{KEY}@host.example:27017/db",
        f"mongodb://root:{KEY}/p?q#r@host.example/db",
        f"see <https://{KEY}@host.example/a> there",
        f"https://soundcloud.com/somebody/track/s-{KEY.replace('-', '')}",
        "jwt=eyJhbGciOiJIUzI1NiJ9" + KEY * 6,
    ],
)
def test_keys_are_not_written(text: str) -> None:
    """In headers, their reprs, JSON, cookies, URLs; as message, argument, exception, field or request id."""
    forms: Mapping[str, Any] = {
        "message": _line(_record(text)),
        "argument": _line(_record("it was %s", text)),
        "exception": _line(_raised(ValueError(text))),
        "field": _line(_record("x", client=text)),
        "request_id": _line(_record("x"), text),
    }
    for name, line in forms.items():
        assert KEY not in json.dumps(line), name
        assert KEY.replace("-", "") not in json.dumps(line), name


@pytest.mark.parametrize(
    "text",
    [
        "fetching https://www.youtube.com/watch?v=dQw4w9WgXcQ: timeout",
        "task 0123456789abcdef01234567 is completed",
        'File "/srv/gary/.venv/lib/python3.11/site-packages/ray/serve/_private/replica.py", line 1499, in _record',
        "the embedded database answers at mongodb://127.0.0.1:4000/",
        "the special token (2048) fills both ends",
    ],
)
def test_what_operators_need_stays(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize("character", ["a", " ", "\n", "'", '"', "\\", "b'", "x://", "token=", "a b:'", "@", "?"])
def test_cleaning_a_long_text_takes_little_time(character: str) -> None:
    """No pattern looks at every stretch of a text from each of its places."""
    began_s = perf_counter()
    clean(character * 120_000)
    clean(character * 5_000_000)
    assert perf_counter() - began_s < 10


@given(st.text(max_size=300), st.integers(0, 200_000))
def test_a_line_has_a_bounded_length(text: str, repeats: int) -> None:
    """Whatever is logged."""
    record = _raised(ValueError(text * repeats if len(text) * repeats < 500_000 else text))
    record.msg = text * 100
    line = _line(record, text)
    assert len(line["message"]) < MESSAGE_CHARACTERS + 50
    assert len(line["exception"]) < EXCEPTION_CHARACTERS + 50


@pytest.mark.parametrize(
    ("message", "args"), [("%d", ("x",)), ("%s %s", ("x",)), ("%(a)s", ({"b": 1},)), ("100 %", (1,))]
)
def test_arguments_that_do_not_fit_lose_no_line(message: str, args: tuple[object, ...]) -> None:
    """A mistake in a log call is shown as such, without its arguments."""
    assert _line(_record(message, *args))["message"] == f"{message} [its arguments do not fit]"


def test_text_lines_say_the_same() -> None:
    """For a terminal: deployment, task, message and fields; as clean as the others."""
    origin = Origin("Cropper", "c1", lambda: request_id_of(TASK))
    line = TextLines(origin).format(_record(f"100 %, got {BASE64[:99]}", size_bytes=7))
    assert line.startswith("WARNING ")
    assert f"Cropper task {TASK} -- 100 %, got [cut:99] size_bytes=7" in line


def test_a_childs_lines_become_ours() -> None:
    """With their level and exception, under the parent's task whatever the child says; other lines are warnings."""
    child, parent = io.StringIO(), io.StringIO()
    logger = logging.Logger("gary.parent")
    handler = logging.StreamHandler(parent)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    record = _raised(OSError(f"Cookie: {KEY}"))
    record.levelname, record.levelno = "ERROR", logging.ERROR
    with about("e" * 24):
        child.write(JsonLines().format(record) + "\n")
    child.write('\nSegmentation fault\n{"level": "NOTSET"}\n')
    with about(TASK):
        relay(child.getvalue().splitlines(), logger)
    lines = [json.loads(line) for line in parent.getvalue().splitlines()]
    assert [line["level"] for line in lines] == ["ERROR", "WARNING", "WARNING"]
    assert {line["task_id"] for line in lines} == {TASK}
    assert lines[0]["message"].startswith("the child, gary.test: it failed\nTraceback")
    assert lines[1]["message"] == "the child: Segmentation fault"
    assert KEY not in parent.getvalue()
