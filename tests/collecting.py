"""A collector of traces of the tests' own: OTLP over HTTP on loopback, decoded as OpenTelemetry describes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic, sleep
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class SeenSpan:
    """A span as it came. Ids are hexadecimal; `parent_id` is empty of a root; `error` is its status' description."""

    name: str
    service: str
    replica: str
    trace_id: str
    span_id: str
    parent_id: str
    begin_ns: int
    end_ns: int
    facts: dict[str, Any]
    events: tuple[str, ...]
    error: str | None


class Collector:
    """Keeps what it is sent.

    Attributes:
        status: what it answers with; anything but 200 keeps nothing.
        paths: that were posted to.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.status = 200
        self.paths: set[str] = set()
        self._spans: list[SeenSpan] = []

    @property
    def spans(self) -> list[SeenSpan]:
        """In the order of their beginning."""
        return sorted(self._spans, key=lambda span: span.begin_ns)

    def of(self, trace_id: str) -> list[SeenSpan]:
        return [span for span in self.spans if span.trace_id == trace_id]

    def until(self, holds: Callable[[list[SeenSpan]], bool], timeout_s: float = 30.0) -> list[SeenSpan]:
        """All spans, once `holds` is true of them."""
        deadline_s = monotonic() + timeout_s
        while not holds(spans := self.spans):
            assert monotonic() < deadline_s, f"not within {timeout_s:g} s; there are {[span.name for span in spans]}"
            sleep(0.02)
        return spans

    def take(self, body: bytes) -> None:
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _facts(group.resource.attributes)
            for scope in group.scope_spans:
                self._spans += [_seen(span, resource) for span in scope.spans]


def _seen(span: ProtoSpan, resource: dict[str, Any]) -> SeenSpan:
    return SeenSpan(
        name=span.name,
        service=resource["service.name"],
        replica=resource["service.instance.id"],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        begin_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        facts=_facts(span.attributes),
        events=tuple(event.name for event in span.events),
        error=span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
    )


def _facts(attributes: Any) -> dict[str, Any]:
    def value(pair: KeyValue) -> Any:
        return getattr(pair.value, str(pair.value.WhichOneof("value")))

    return {pair.key: value(pair) for pair in attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    """Runs one on a free port for the time of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taking.paths.add(self.path)
            if taking.status == 200:
                taking.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(taking.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        taking = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield taking
        finally:
            server.shutdown()
            thread.join()
