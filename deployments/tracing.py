"""A task's trace: what each process did for it and when, as spans; off by default, and then nothing is done.

A trace has its task's id, with eight zeros before it: whoever has the one has the other, and the log's `task_id` joins
both. The ids of the spans that others hang below, the request that made the task and each attempt, follow from the
task's id too, and a stage's from its attempt's, so any process can name them, also one that takes over from a process
that died. Further down a parent is handed on as a plain string, a W3C traceparent, in an argument named `trace`; None:
nobody wants to know.

Here is nothing of OpenTelemetry; `deployments/otel.py` is loaded where a collector is named.

Serve's own tracing (2.60) is not used: its spans tell of HTTP and handle calls by method, every GET of a client that
waits included; its context is handed on by calls alone, so that an attempt begun by a sweeper would be a trace of its
own; and it records exceptions with their sentences and tracebacks, which may hold a link.
"""

import functools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from typing import Any, Protocol, TypeVar, runtime_checkable

from ray import serve

from deployments.spans import (
    SPANS,
    Ended,
    Fact,
    Sink,
    Span,
    code_of,
    digest_of,
    new_span_id,
    short,
    since_1970_ns,
    span_id_in,
    told,
    trace_id_in,
    trace_id_of,
    traceparent,
)
from gary.config import TracingConfig

T = TypeVar("T")


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
        return traceparent(trace_id_of(task_id), digest[:8].hex())

    def attempt(self, task_id: str, fence: int) -> str | None:
        """The traceparent of the attempt that was claimed with this fence."""
        if self.root(task_id) is None:
            return None
        return traceparent(trace_id_of(task_id), digest_of(f"{task_id}-{fence}"))

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
        begin_ns, end_ns = map(since_1970_ns, times)
        span_id = new_span_id(own)
        parent_id = span_id_in(parent) if parent is not None else None
        ids, times_ns = (trace_id_in(known), span_id, parent_id), (begin_ns, max(begin_ns, end_ns))
        self._sink(Ended(name, *ids, *times_ns, told(facts), code=short(code)))


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


@runtime_checkable
class Sealed(Protocol):
    """`deployments.handles.Parcel`, which knows this module."""

    async def open(self) -> Any: ...


def traced(name: str) -> Callable[[Callable[..., Awaitable[T]]], Callable[..., Awaitable[T]]]:
    """Has a method take the argument `trace`, a traceparent, and be a span below it.

    Parcels among its arguments are opened before: the span is of its own work, not of the call that it waits for.
    """

    def dressed(method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        @functools.wraps(method)
        async def as_span(self: Traced, *args: Any, trace: str | None = None) -> T:
            opened = [await each.open() if isinstance(each, Sealed) else each for each in args]
            with self.tracing.span(name, trace):
                return await method(self, *opened)

        return as_span

    return dressed
