"""What a collector is sent, and what becomes of it while the collector is away."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from statistics import median
from time import monotonic, perf_counter, sleep

import pytest

from deployments.otel import exporting
from deployments.spans import Ended, Sink
from deployments.tracing import Tracing
from gary.errors import SourceError
from tests.collecting import Collector, collector
from tests.running import free_port

AWAY = "the collector of traces does not take spans; they are lost until it does"
TASK = "6921f0c2a7b1c3d4e5f60718"


@pytest.fixture
def far() -> Iterator[Collector]:
    with collector() as running:
        yield running


def one(name: str = "fetch", code: str | None = None) -> Ended:
    return Ended(name, "0" * 31 + "1", "0" * 15 + "2", "0" * 15 + "3", 1_000, 2_000, {}, (), code)


def test_a_span_arrives_as_it_was_told(far: Collector) -> None:
    """Ids, times, facts and events; who says it; a root has no parent, and what is below it has the string's."""
    tracing = Tracing(exporting(far.endpoint + "/", "Fetcher", "gary#Fetcher#x1"))
    root = tracing.root(TASK)
    tracing.tell("accept", None, (1_000, 2_000), own=root, route="/generate", status=200)
    with tracing.span("take", root, take=1, length_s=1.5) as span:
        span.event("first audio")
    accept, take = far.until(lambda spans: len(spans) == 2)
    assert far.paths == {"/v1/traces"}
    assert accept.trace_id == take.trace_id == "00000000" + TASK
    assert f"00-{accept.trace_id}-{accept.span_id}-01" == root
    assert (accept.parent_id, take.parent_id) == ("", accept.span_id)
    assert (accept.begin_ns, accept.end_ns) == (1_000, 2_000)
    assert accept.facts == {"http.route": "/generate", "http.response.status_code": 200}
    assert take.facts == {"gary.take": 1, "gary.length_s": 1.5}
    assert take.events == ("first audio",)
    assert (take.service, take.replica) == ("gary-Fetcher", "gary#Fetcher#x1")
    assert accept.error is take.error is None


def test_an_error_is_the_status_and_its_code_says_which(far: Collector) -> None:
    """What is cancelled is told so, and is no error."""
    send = exporting(far.endpoint, "Fetcher", "x")
    with pytest.raises(SourceError), Tracing(send).span("fetch", Tracing(send).root(TASK)):
        raise SourceError("https://host/private", "private")
    send(one(code="cancelled"))
    spans = far.until(lambda spans: len(spans) == 2)
    assert {(span.facts["gary.code"], span.error) for span in spans} == {("private", "private"), ("cancelled", None)}


def until(condition: Callable[[], object]) -> None:
    deadline_s = monotonic() + 30
    while not condition():
        assert monotonic() < deadline_s
        sleep(0.02)


def sent(send: Sink, spans: int) -> float:
    """Seconds that whoever tells so many spans is kept from his work by each, as a median.

    A sum would measure the process too: in one that ran thousands of tests, a collection of garbage takes seconds.
    """
    took_s = []
    for _ in range(spans):
        began_s = perf_counter()
        send(one())
        took_s.append(perf_counter() - began_s)
    return median(took_s)


def test_a_collector_that_is_away_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Telling spans waits for nothing, however many are lost; one line says that they are."""
    send = exporting(f"http://127.0.0.1:{free_port()}", "Fetcher", "x")
    with caplog.at_level(logging.INFO):
        assert sent(send, 10_000) < 1e-3
        until(lambda: caplog.records)
        assert sent(send, 1_000) < 1e-3
    assert [record.getMessage() for record in caplog.records] == [AWAY]


def test_a_collector_that_comes_back_is_sent_the_rest(far: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """One line when it goes, one when it is back, whatever was tried between."""
    far.status = 400  # not tried again, unlike 503
    send = exporting(far.endpoint, "Fetcher", "x")
    with caplog.at_level(logging.INFO):
        for name in ("fetch", "decode", "plan"):
            far.paths.clear()
            send(one(name))
            until(lambda: far.paths)
        until(lambda: caplog.records)
        far.status = 200
        send(one("crop"))
        assert "crop" in {span.name for span in far.until(bool)}
        until(lambda: len(caplog.records) > 1)
    away, back = (record.getMessage() for record in caplog.records)
    assert away == AWAY
    assert back.startswith("the collector of traces takes spans again; at least ")
