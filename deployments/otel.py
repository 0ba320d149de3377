"""Spans to a collector, by OTLP over HTTP, in the background: the only code that knows OpenTelemetry.

A thread sends what has ended. While the collector is away it keeps a bounded number of spans, then loses the oldest;
the log hears of it once, and once more when it is over. Headers, timeouts and certificates for the collector are taken
by the exporter from the standard environment (OTEL_EXPORTER_OTLP_HEADERS and so on): secrets stand in no config file.
"""

import logging
from collections.abc import Sequence
from contextvars import ContextVar

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from deployments.spans import CANCELLED, FACTS, Ended, Sink

_log = logging.getLogger("ray.serve")
_SEND_S = 0.25  # what a replica that is killed has not sent is lost
_SPANS_MAX = 2048  # that wait

_now: ContextVar[Ended] = ContextVar("the span that is being made")


def exporting(endpoint: str, deployment: str, replica: str) -> Sink:
    """A sink that sends spans to a collector, as those of this replica.

    Args:
        endpoint: of the collector, without `/v1/traces`.
    """
    quiet_sdk()
    resource = Resource.create(
        {"service.namespace": "gary", "service.name": f"gary-{deployment}", "service.instance.id": replica}
    )
    exporter = Telling(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces"))
    sending = BatchSpanProcessor(exporter, max_queue_size=_SPANS_MAX, schedule_delay_millis=_SEND_S * 1000)
    provider = TracerProvider(
        sampler=ALWAYS_ON,  # which tasks are traced is settled before
        resource=resource,
        shutdown_on_exit=False,  # it may wait for a collector that is away
        id_generator=_GivenIds(),
        span_limits=SpanLimits(max_span_attributes=len(FACTS), max_events=16),
    )
    provider.add_span_processor(sending)
    tracer = provider.get_tracer("gary")

    def send(ended: Ended) -> None:
        token = _now.set(ended)
        try:
            span = tracer.start_span(
                ended.name, _parent(ended), _kind(ended), attributes=ended.facts, start_time=ended.begin_ns
            )
        finally:
            _now.reset(token)
        for name, at_ns in ended.events:
            span.add_event(name, timestamp=at_ns)
        if ended.code is not None:
            span.set_attribute(FACTS["code"], ended.code)
            if ended.code != CANCELLED:
                span.set_status(Status(StatusCode.ERROR, ended.code))
        span.end(ended.end_ns)

    return send


def quiet_sdk() -> None:
    """The exporter's own words, several for each batch that it cannot send, are left out: `Telling` says it once."""
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    logging.getLogger("opentelemetry.sdk").setLevel(logging.ERROR)


class Telling(SpanExporter):
    """Logs when a collector goes away, and when it is back."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        outcome = self._exporter.export(spans)
        if outcome is not SpanExportResult.SUCCESS:
            if not self._lost:
                _log.warning("the collector of traces does not take spans; they are lost until it does")
            self._lost += len(spans)
        elif self._lost:
            _log.info("the collector of traces takes spans again; at least %d were lost", self._lost)
            self._lost = 0
        return outcome

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _GivenIds(IdGenerator):
    """The ids that the span has already."""

    def generate_span_id(self) -> int:
        return int(_now.get().span_id, 16)

    def generate_trace_id(self) -> int:
        return int(_now.get().trace_id, 16)


def _parent(ended: Ended) -> Context:
    """Empty of a root: never what happens to be in this process's context."""
    if ended.parent_id is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED)
    place = SpanContext(int(ended.trace_id, 16), int(ended.parent_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(place), Context())


def _kind(ended: Ended) -> SpanKind:
    return SpanKind.SERVER if ended.name == "accept" else SpanKind.INTERNAL
