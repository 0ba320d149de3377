"""What a log line is: one JSON object, or a line of text for a terminal, that names its task and holds no audio or key.

Every line passes `cleaned`, which writes only the fields that it knows, and of texts takes away what looks like bytes,
a key, a cookie, or the private parts of a URL. A secret that looks like a plain word cannot be told from one: whoever
logs a request logs its holder, its route's pattern and its size, never its headers or body.

A task's id comes from `about`, or from a request id that `request_id_of` made: where calls carry the request's id
from process to process, the task's goes with it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pythonjsonlogger.json import JsonFormatter

MESSAGE_CHARACTERS = 4_000
EXCEPTION_CHARACTERS = 16_000
FIELD_CHARACTERS = 200
# What a line may say beside its message: the keys that `extra` is read for. Everything else is passed over.
FIELDS = ("method", "path", "status", "duration_s", "client", "holder", "size_bytes", "length_s", "attempt")

_WINDOW_CHARACTERS = 65_536  # of a longer text, only the two ends are read
_RUN_CHARACTERS = 72  # base64 is wrapped at 76; a SHA-256 has 64 hexadecimal digits

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_BYTES = re.compile(r"""\bb(['"])(?:\\.|(?!\1)[^\\\n])*(?:\1|\\?$)""", re.MULTILINE)
_BASE64, _ROW_END = "[A-Za-z0-9+/_=%-]", r"(?:(?:\r?\n)|(?:(?:\\r)?\\n))"  # a line's end, or its escape
_RUN = re.compile(  # with the last row, which may be short
    rf"{_BASE64}{{{_RUN_CHARACTERS},}}(?:{_ROW_END}{_BASE64}{{{_RUN_CHARACTERS},}})*(?:{_ROW_END}{_BASE64}+)?"
)
_URL = re.compile(r"""\b([a-z][a-z0-9+.-]{1,20}://)([^\s'"<>\\]+)""", re.IGNORECASE)
_VIDEO = re.compile(r"v=[A-Za-z0-9_-]{11}")  # the one query that says what was asked for and is nobody's secret
_PRIVATE_TRACK = re.compile(r"/s-[A-Za-z0-9]+")  # SoundCloud's, in a path
_BEARER = re.compile(r"\b(bearer)\s+[A-Za-z0-9+/_=.~-]{6,}", re.IGNORECASE)
_SEPARATOR = r"""[\\"']*\s*(?:[:=]|,(?=\s*["']))\s*"""
_QUOTED = r""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
_HEADER = re.compile(  # not quoted, it goes to the end of its line
    rf"""((?:proxy-)?authorization|x-api-key|(?:set-)?cookie)({_SEPARATOR})(?:{_QUOTED}|[^\n]*)""", re.IGNORECASE
)
_NAMED = re.compile(
    rf"""(api[-_]?key|token|secret|passw(?:or)?d|signature)({_SEPARATOR})(?:{_QUOTED}|[^\s&;,}}\])]+)""", re.IGNORECASE
)

_TASK_REQUEST = re.compile(r"task-([0-9a-f]{24})")
_TASK = re.compile(r"[0-9a-f]{24}")
_about: ContextVar[str | None] = ContextVar("the task that is worked on", default=None)


@contextmanager
def about(task_id: str) -> Iterator[None]:
    """What is logged meanwhile, by this code and what it calls, is about this task."""
    token = _about.set(task_id)
    try:
        yield
    finally:
        _about.reset(token)


def note_task(task_id: str) -> None:
    """As `about`, to the end of the present context: what is logged of a request after its handler is about it too.

    Args:
        task_id: passed over where it has no id's form; it may come from a stranger's URL.
    """
    if _TASK.fullmatch(task_id):
        _about.set(task_id)


def request_id_of(task_id: str) -> str:
    """The request id of the calls that a task makes. A client may give its own request such an id, and with it a false
    task_id to the few lines about that request alone."""
    return f"task-{task_id}"


def clean(text: str, limit_characters: int = MESSAGE_CHARACTERS) -> str:
    """`text` without what must not be written down, and not longer than about `limit_characters`.

    What is taken away leaves `[cut]`, or `[cut:N]` for N characters of it. Of a text beyond 128 KiB only its ends are
    looked at, and what stands at the edges, where a secret might be halved, goes.
    """
    if len(text) > 2 * _WINDOW_CHARACTERS:
        head = _cut_secrets(text[:_WINDOW_CHARACTERS])
        head = head[: max(head.rfind(" "), head.rfind("\n"), 0)] or "[cut]"
        tail = _cut_secrets(text[-_WINDOW_CHARACTERS:].partition("\n")[2])
        text = f"{head} [cut:{len(text)}]\n{tail}"
    else:
        text = _cut_secrets(text)
    if len(text) <= limit_characters:
        return text
    half = limit_characters // 2
    return f"{text[:half]} [cut:{len(text) - 2 * half}] {text[-half:]}"


def _cut_secrets(text: str) -> str:
    text = _ANSI.sub("", text)
    text = _BYTES.sub(lambda found: f"[cut:{len(found[0])}]", text)
    text = _RUN.sub(lambda found: f"[cut:{len(found[0])}]", text)
    text = _URL.sub(_public_url, text)
    text = _HEADER.sub(r"\1\2[cut]", text)
    text = _BEARER.sub(r"\1 [cut]", text)
    return _NAMED.sub(r"\1\2[cut]", text)


def _public_url(found: re.Match[str]) -> str:
    """Scheme, host and path. Whatever stands before an @ goes, wherever that is: a password may hold any character."""
    url = found[2].rstrip(".,:;!)]}")
    place, *private = re.split(r"[?#]", url.rpartition("@")[2], maxsplit=1)
    shown = found[1] + _PRIVATE_TRACK.sub("/s-[cut]", place)
    if private:
        shown += f"?{private[0] if _VIDEO.fullmatch(private[0]) else '[cut]'}"
    return shown + found[2][len(url) :]


@dataclass(frozen=True)
class Origin:
    """Who writes the lines of a process.

    Attributes:
        request_id: of what is worked on at the moment; empty: of nothing.
    """

    deployment: str
    replica: str
    request_id: Callable[[], str]


def cleaned(record: logging.LogRecord, origin: Origin | None = None) -> logging.LogRecord:
    """A record that may be shown: message and exception cleaned, of other fields those that are known here."""
    message, exception = _message(record), _exception(record)
    shown = logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, message, None, None)
    shown.levelname, shown.created, shown.msecs = record.levelname, record.created, record.msecs
    shown.exc_text = exception
    request_id = getattr(record, "request_id", None) or (origin.request_id() if origin else "")
    task = _TASK_REQUEST.fullmatch(request_id)
    known = {name: getattr(record, name, None) for name in FIELDS}
    known["request_id"] = request_id or None
    known["task_id"] = _about.get() or (task[1] if task else None)
    shown.__dict__.update({name: _plain(value) for name, value in known.items() if value is not None})
    return shown


def _message(record: logging.LogRecord) -> str:
    message = str(_printable(record.msg))
    if not record.args:
        return clean(message)
    arguments: Any
    if isinstance(record.args, Mapping):
        arguments = {name: _printable(value) for name, value in record.args.items()}
    else:
        arguments = tuple(map(_printable, record.args))
    try:
        return clean(message % arguments)
    except (TypeError, ValueError, KeyError):
        return clean(f"{message} [its arguments do not fit]")


def _exception(record: logging.LogRecord) -> str | None:
    if record.exc_info and record.exc_info[0] is not None:
        return clean(logging.Formatter().formatException(record.exc_info), EXCEPTION_CHARACTERS)
    return clean(record.exc_text, EXCEPTION_CHARACTERS) if record.exc_text else None


def _printable(value: object) -> object:
    """Bytes by their number alone; they are not even turned into text."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[cut:{memoryview(value).nbytes}]"
    return value


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return clean(str(_printable(value)), FIELD_CHARACTERS)


class JsonLines(JsonFormatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, message, deployment, replica; where there are such,
    task_id, request_id, exception and `FIELDS`."""

    def __init__(self, origin: Origin | None = None) -> None:
        super().__init__(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
            static_fields={"deployment": origin.deployment, "replica": origin.replica} if origin else None,
            timestamp="time",
        )
        self._origin = origin

    def format(self, record: logging.LogRecord) -> str:
        return str(super().format(cleaned(record, self._origin)))

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        return {"time": log_data.pop("time"), **log_data}  # first, for those who read lines


class TextLines(logging.Formatter):
    """For a terminal: what JsonLines says, but for the fields beside the message."""

    def __init__(self, origin: Origin) -> None:
        super().__init__("%(levelname)s %(asctime)s %(where)s -- %(message)s")
        self._origin = origin

    def format(self, record: logging.LogRecord) -> str:
        shown = cleaned(record, self._origin)
        fields = shown.__dict__
        about_what = f"task {fields['task_id']}" if "task_id" in fields else fields.get("request_id")
        shown.where = " ".join(filter(None, (self._origin.deployment, about_what)))
        beside = [f"{name}={fields[name]}" for name in FIELDS if name in fields]
        shown.msg = " ".join([shown.msg, *beside])
        return super().format(shown)


class _ChildLine(BaseModel):
    """What is taken from a line that a child process wrote with JsonLines."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    logger: str
    message: str
    exception: str = ""


def relay(lines: Iterable[str], logger: logging.Logger) -> None:
    """Logs what a child process wrote to its standard error, as our own lines: their task is the one of this context,
    whatever the child says. What is no JsonLines line, a crash's last words for one, is a warning."""
    for line in filter(None, map(str.strip, lines)):
        try:
            said = _ChildLine.model_validate_json(line)
        except ValidationError:
            logger.warning("the child: %s", line)
        else:
            level = logging.getLevelNamesMapping()[said.level]
            logger.log(level, "the child, %s: %s", said.logger, "\n".join(filter(None, (said.message, said.exception))))
