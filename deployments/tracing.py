"""A task's trace: what each process did for it and when, as spans; off by default, and then nothing is done.

A trace has its task's id, with eight zeros before it: whoever has the one has the other, and the log's `task_id` joins
both. The ids of the spans that others hang below, the request that made the task and each attempt, follow from the
task's id too, and a stage's from its attempt's, so any process can name them, also one that takes over from a process
that died. Further down a parent is handed on as a plain string, a W3C traceparent, in an argument named `trace`; None:
nobody wants to know.

A span carries what stands in FACTS and nothing else: numbers and short words, cleaned as log lines are. Never audio, a
link, a key or an error's sentence. Here is nothing of OpenTelemetry; `deployments/otel.py` is loaded where a collector
is named.

Serve's own tracing (2.60) is not used: its spans tell of HTTP and handle calls by method, every GET of a client that
waits included; its context is handed on by calls alone, so that an attempt begun by a sweeper would be a trace of its
own; and it records exceptions with their sentences and tracebacks, which may hold a link.
"""

import asyncio
import functools
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Protocol, TypeVar

from ray import serve

from gary.config import TracingConfig
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
T = TypeVar("T")


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
            self._span_id = _new_span_id(own)
            self._begin_ns = clock_ns()

    @property
    def trace(self) -> str | None:
        """Its own traceparent, for what happens within it."""
        if self._sink is None or self._parent is None:
            return None
        return _traceparent(_trace_id(self._parent), self._span_id)

    def note(self, **facts: Fact | None) -> None:
        """Adds facts, by the keys of FACTS; None is none."""
        if self._sink is not None:
            self._facts |= _told(facts)

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
        ids = (_trace_id(self._parent), self._span_id, _span_id(self._parent))
        ended = Ended(
            self._name, *ids, self._begin_ns, self._clock_ns(), self._facts, tuple(self._events), _short(code)
        )
        self._sink(ended)
        self._sink = None


class Tracing:
    """What a replica tells its part of the traces by. Never raises for what is traced.

    Args:
        sink: is given each span that is over; None: off.
        sample_ratio: of the tasks that are traced. Which ones follows from their ids, so all processes agree.
        clock_ns: since 1970.
    """

    def __init__(
        self, sink: Sink | None = None, sample_ratio: float = 1.0, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._sink = sink
        self._sample_ratio = sample_ratio
        self._clock_ns = clock_ns

    @property
    def on(self) -> bool:
        return self._sink is not None

    def root(self, task_id: str) -> str | None:
        """The traceparent of the request that made a task; None where the task is not traced."""
        if self._sink is None:
            return None
        digest = sha256(task_id.encode()).digest()
        if int.from_bytes(digest[8:16]) >= self._sample_ratio * 2**64:
            return None
        return _traceparent(trace_id_of(task_id), digest[:8].hex())

    def attempt(self, task_id: str, fence: int) -> str | None:
        """The traceparent of the attempt that was claimed with this fence."""
        if self.root(task_id) is None:
            return None
        return _traceparent(trace_id_of(task_id), _digest(f"{task_id}-{fence}"))

    def begin(self, name: str, parent: str | None, own: str | None = None) -> Span:
        """A span whose end is told by `Span.end`."""
        return Span(self._sink, self._clock_ns, name, parent, own)

    @contextmanager
    def span(self, name: str, parent: str | None, own: str | None = None, **facts: Fact | None) -> Iterator[Span]:
        """The block as a span; an error that leaves the block ends it with its code.

        Args:
            parent: a traceparent; None: nothing is told.
            own: its own, where it is settled.
        """
        span = self.begin(name, parent, own)
        span.note(**facts)
        try:
            yield span
        except BaseException as error:
            span.end(code_of(error))
            raise
        span.end()

    def tell(
        self,
        name: str,
        parent: str | None,
        times: tuple[int, int] | tuple[datetime, datetime],
        own: str | None = None,
        code: str | None = None,
        **facts: Fact | None,
    ) -> None:
        """A span that is over already.

        Args:
            parent: a traceparent; None, as `own`: of a root.
            times: beginning and end, nanoseconds since 1970 or with a time zone.
            own: its own traceparent, where others hang below it.
        """
        assert name in SPANS, f"{name} is no span of the catalogue"
        known = own or parent
        if self._sink is None or known is None:
            return
        begin_ns, end_ns = map(_since_1970_ns, times)
        span_id = _new_span_id(own)
        parent_id = _span_id(parent) if parent is not None else None
        ids, times_ns = (_trace_id(known), span_id, parent_id), (begin_ns, max(begin_ns, end_ns))
        self._sink(Ended(name, *ids, *times_ns, _told(facts), code=_short(code)))


OFF = Tracing()


def begin(config: TracingConfig | None) -> Tracing:
    """To be called in a deployment's constructor."""
    if config is None or config.endpoint is None:
        return OFF
    from deployments.otel import exporting

    context = serve.get_replica_context()
    return Tracing(exporting(config.endpoint, context.deployment, context.replica_tag), config.sample_ratio)


class Traced(Protocol):
    """A deployment whose methods `traced` may dress."""

    tracing: Tracing


def traced(name: str) -> Callable[[Callable[..., Awaitable[T]]], Callable[..., Awaitable[T]]]:
    """Has a method take the argument `trace`, a traceparent, and be a span below it."""

    def dressed(method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        @functools.wraps(method)
        async def within(self: Traced, *args: Any, trace: str | None = None) -> T:
            with self.tracing.span(name, trace):
                return await method(self, *args)

        return within

    return dressed


def code_of(error: BaseException) -> str:
    """A stable word; what is cancelled or closed early is `cancelled`."""
    if isinstance(error, GaryError):
        return error.code
    return CANCELLED if isinstance(error, asyncio.CancelledError | GeneratorExit) else "internal"


def within(parent: str | None, name: str) -> str | None:
    """The traceparent of the one span of this name below a parent, known to whoever knows the parent."""
    return None if parent is None else _traceparent(_trace_id(parent), _digest(f"{parent}-{name}"))


def _digest(text: str) -> str:
    return sha256(text.encode()).digest()[:8].hex()


def _new_span_id(own: str | None) -> str:
    return _span_id(own) if own is not None else os.urandom(8).hex()


def _traceparent(trace_id: str, span_id: str) -> str:
    """https://www.w3.org/TR/trace-context/: version, trace, parent, sampled."""
    return f"00-{trace_id}-{span_id}-01"


def _trace_id(traceparent: str) -> str:
    return traceparent[3:35]


def _span_id(traceparent: str) -> str:
    return traceparent[36:52]


def _told(facts: Mapping[str, Fact | None]) -> dict[str, Fact]:
    return {FACTS[key]: _plain(value) for key, value in facts.items() if value is not None}


def _plain(value: Fact) -> Fact:
    assert isinstance(value, str | int | float), f"a {type(value).__name__} is no fact"
    return clean(value, FACT_CHARACTERS)[:FACT_CHARACTERS] if isinstance(value, str) else value


def _short(code: str | None) -> str | None:
    return code if code is None else code[:FACT_CHARACTERS]


def _since_1970_ns(when: int | datetime) -> int:
    if isinstance(when, int):
        return when
    return (when - _EPOCH) // timedelta(microseconds=1) * 1000
