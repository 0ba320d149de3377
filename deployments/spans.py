"""Spans as plain values: what one is called, what it may say, and whose it is. They know neither Ray nor OpenTelemetry.

A span carries what stands in FACTS and nothing else: numbers and short words, cleaned as log lines are. Never audio, a
link, a key or an error's sentence. Its place in a trace is a string, a W3C traceparent.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from gary.errors import GaryError
from gary.logs import clean

Fact = str | int | float

# What a span may say, and its name in the trace; HTTP's are those of OpenTelemetry's semantic conventions.
FACTS = {
    "task": "gary.task_id",
    "job": "gary.job",
    "attempt": "gary.attempt",
    "worker": "gary.worker",
    "outcome": "gary.outcome",
    "code": "gary.code",
    "model": "gary.model",
    "takes": "gary.takes",
    "take": "gary.take",
    "frames": "gary.frames",
    "length_s": "gary.length_s",
    "site": "gary.site",
    "size_bytes": "gary.size_bytes",
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
}
STAGES = ("fetching", "generating", "encoding", "storing")  # the conductor's, of an attempt
SPANS = frozenset(
    [
        *("accept", "queued", "attempt", *STAGES),
        *("fetch", "decode", "plan", "crop", "hold", "listen", "fit", "encode"),
        *("play", "load", "prompt", "prefill", "take"),
    ]
)
EVENTS = frozenset({"first audio"})
FACT_CHARACTERS = 100
CANCELLED = "cancelled"  # a code that is no error

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Ended:
    """A span that is over. Ids are hexadecimal, 32 and 16 digits.

    Attributes:
        name: of SPANS.
        parent_id: None of a trace's root.
        begin_ns, end_ns: since 1970.
        facts: by the names in a trace.
        events: of EVENTS, and when each was.
        code: of the error that it ended by; None where it ended well.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    begin_ns: int
    end_ns: int
    facts: Mapping[str, Fact]
    events: tuple[tuple[str, int], ...] = ()
    code: str | None = None


Sink = Callable[[Ended], None]  # quick, and never raises


def trace_id_of(task_id: str) -> str:
    return task_id.rjust(32, "0")


class Span:
    """Something under way. One that nobody wants to know of keeps nothing.

    Args:
        parent: a traceparent.
        own: its own, where it is settled.
    """

    def __init__(
        self, sink: Sink | None, clock_ns: Callable[[], int], name: str, parent: str | None, own: str | None = None
    ) -> None:
        assert name in SPANS, f"{name} is no span of the catalogue"
        self._sink = sink if parent is not None else None
        self._clock_ns = clock_ns
        self._name = name
        self._parent = parent
        self._facts: dict[str, Fact] = {}
        self._events: list[tuple[str, int]] = []
        if self._sink is not None:
            self._span_id = new_span_id(own)
            self._begin_ns = clock_ns()

    @property
    def trace(self) -> str | None:
        """Its own traceparent, for what happens within it."""
        if self._sink is None or self._parent is None:
            return None
        return traceparent(trace_id_in(self._parent), self._span_id)

    def note(self, **facts: Fact | None) -> None:
        """Adds facts, by the keys of FACTS; None is none."""
        if self._sink is not None:
            self._facts |= told(facts)

    def event(self, name: str) -> None:
        assert name in EVENTS, f"{name} is no event of the catalogue"
        if self._sink is not None:
            self._events.append((name, self._clock_ns()))

    def end(self, code: str | None = None) -> None:
        """Once; a second time nothing happens.

        Args:
            code: of the error that it ends by.
        """
        if self._sink is None or self._parent is None:
            return
        ids = (trace_id_in(self._parent), self._span_id, span_id_in(self._parent))
        ended = Ended(self._name, *ids, self._begin_ns, self._clock_ns(), self._facts, tuple(self._events), short(code))
        self._sink(ended)
        self._sink = None


def code_of(error: BaseException) -> str:
    """A stable word; what is cancelled or closed early is `cancelled`."""
    if isinstance(error, GaryError):
        return error.code
    return CANCELLED if isinstance(error, asyncio.CancelledError | GeneratorExit) else "internal"


def within(parent: str | None, name: str) -> str | None:
    """The traceparent of the one span of this name below a parent, known to whoever knows the parent."""
    return None if parent is None else traceparent(trace_id_in(parent), digest_of(f"{parent}-{name}"))


def digest_of(text: str) -> str:
    return sha256(text.encode()).digest()[:8].hex()


def new_span_id(own: str | None) -> str:
    return span_id_in(own) if own is not None else os.urandom(8).hex()


def traceparent(trace_id: str, span_id: str) -> str:
    """https://www.w3.org/TR/trace-context/: version, trace, parent, sampled."""
    return f"00-{trace_id}-{span_id}-01"


def trace_id_in(place: str) -> str:
    return place[3:35]


def span_id_in(place: str) -> str:
    return place[36:52]


def told(facts: Mapping[str, Fact | None]) -> dict[str, Fact]:
    """Facts by the names in a trace, cleaned; a key that FACTS does not have, or a value of another kind, is a bug."""
    return {FACTS[key]: _plain(value) for key, value in facts.items() if value is not None}


def _plain(value: Fact) -> Fact:
    assert isinstance(value, str | int | float), f"a {type(value).__name__} is no fact"
    return clean(value, FACT_CHARACTERS)[:FACT_CHARACTERS] if isinstance(value, str) else value


def short(code: str | None) -> str | None:
    return code if code is None else code[:FACT_CHARACTERS]


def since_1970_ns(when: int | datetime) -> int:
    if isinstance(when, int):
        return when
    return (when - _EPOCH) // timedelta(microseconds=1) * 1000
