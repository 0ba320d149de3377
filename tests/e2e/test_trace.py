"""One task, one trace: what a collector is sent by a running service, each replica of which is a process."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from time import monotonic, sleep

import httpx
import pytest

from gary.client import Client, Length, LinkSource, Order, Prompt, State, Task
from tests.collecting import Collector, SeenSpan, collector
from tests.media import MediaServer
from tests.running import Running, replica_pids, running_service

APP = "traced"
KEY = "a-key-that-nobody-may-read-7f3a"
ORDER = Order(model="gary-tiny", length=Length(seconds=1.5), prompt=Prompt(length_s=1.0), seed=5, takes=2)
OLD_STAGES = ["fetch", "decode", "plan", "crop", "play", "encode"]


@pytest.fixture(scope="module")
def far() -> Iterator[Collector]:
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced(
    ray_running: None,
    http_port: int,
    media: MediaServer,
    far: Collector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    data_dir, tracing = tmp_path_factory.mktemp("traced"), {"endpoint": far.endpoint}
    with running_service(media, data_dir, http_port, APP, f"/{APP}", tracing=tracing) as running:
        yield running


class Tree:
    """The spans of one trace."""

    def __init__(self, spans: list[SeenSpan]) -> None:
        self.spans = spans
        self._by_id = {span.span_id: span for span in spans}
        assert len(self._by_id) == len(spans), "a span came twice"

    def the(self, name: str) -> SeenSpan:
        (found,) = self.all(name)
        return found

    def all(self, name: str) -> list[SeenSpan]:
        return [span for span in self.spans if span.name == name]

    def way(self, span: SeenSpan) -> list[str]:
        """Names from the root to a span; fails where a parent is missing."""
        parents = self.way(self._by_id[span.parent_id]) if span.parent_id else []
        return [*parents, span.name]

    @property
    def services(self) -> set[str]:
        return {span.service for span in self.spans}


def tree(far: Collector, task_id: str, *names: str) -> Tree:
    """The trace of a task, found by the task's id; once spans of these names and all parents are there."""
    trace_id = "00000000" + task_id

    def whole(spans: list[SeenSpan]) -> bool:
        ours = [span for span in spans if span.trace_id == trace_id]
        parents = {span.parent_id for span in ours} - {""}
        return Counter(names) <= Counter(span.name for span in ours) and parents <= {span.span_id for span in ours}

    far.until(whole)
    return Tree(far.of(trace_id))


def create(running: Running, url: str, order: Order = ORDER) -> Task:
    with Client(running.base_url) as client:
        return client.create(LinkSource(url=url), order)


def ended(running: Running, task_id: str) -> Task:
    with Client(running.base_url) as client:
        return client.wait(task_id)


def test_a_task_is_one_trace_across_processes(traced: Running, far: Collector, song: bytes) -> None:
    """Whoever has the task's id has the trace, of five processes; every span's parent is in it.

    One stage comes after the other; each take says how much it is and when it was first heard.
    """
    task = create(traced, traced.media.put("/trace.wav", song) + f"?signature={KEY}")
    assert ended(traced, task.id).state is State.COMPLETED
    seen = tree(far, task.id, "storing", "take", "take", "play", "fetch", "crop")
    assert seen.services == {"gary-Ingress", "gary-Conductor", "gary-Fetcher", "gary-Cropper", "gary-MusicGen-tiny"}
    assert len({span.replica for span in seen.spans}) == 5
    attempt = ["accept", "attempt"]
    ways = {
        "accept": ["accept"],
        "queued": ["accept", "queued"],
        "attempt": attempt,
        "fetch": [*attempt, "fetching", "fetch"],
        "decode": [*attempt, "fetching", "decode"],
        "plan": [*attempt, "fetching", "plan"],
        "crop": [*attempt, "fetching", "crop"],
        "play": [*attempt, "generating", "play"],
        "load": [*attempt, "generating", "load"],
        "prompt": [*attempt, "generating", "prompt"],
        "prefill": [*attempt, "generating", "prefill"],
        "encoding": [*attempt, "encoding"],
        "storing": [*attempt, "storing"],
    }
    assert {name: seen.way(seen.the(name)) for name in ways} == ways
    assert len(seen.spans) == len(ways) + len(["fetching", "generating", "take", "take"])
    in_order = [seen.the(name) for name in ("fetch", "decode", "plan", "crop", "load", "prompt", "prefill")]
    in_order += [seen.the("encoding"), seen.the("storing")]
    overlaps = [(one.name, two.name, one.end_ns - two.begin_ns) for one, two in pairwise(in_order)]
    assert [overlap for overlap in overlaps if overlap[2] > 0] == []
    for take in seen.all("take"):
        assert seen.way(take) == [*attempt, "generating", "take"]
        assert take.facts["gary.model"] == "gary-tiny"
        assert take.facts["gary.frames"] >= 2.5 * 50
        assert take.events == ("first audio",)
    assert {take.facts["gary.take"] for take in seen.all("take")} == {0, 1}
    assert seen.the("accept").facts["http.route"] == "/v1/tasks"
    assert seen.the("fetch").facts == {"gary.site": "direct", "gary.size_bytes": len(song)}
    assert all(span.error is None for span in seen.spans)
    assert KEY not in repr(far.spans)
    assert "trace.wav" not in repr(far.spans)


def test_a_task_of_the_old_routes_and_what_goes_on_from_it(traced: Running, far: Collector, song: bytes) -> None:
    """The second job of a task is in the task's trace, below the request that began it all."""
    with httpx.Client(base_url=traced.base_url, timeout=60) as http:
        body = {"url": traced.media.put("/trace-old.wav", song), "promptLength": 2, "duration": "4-6"}
        task_id = http.post("/generate", json=body).json()["task_id"]

        def audio() -> str:
            deadline_s = monotonic() + 90
            while (answer := http.get(f"/tasks/{task_id}").json())["status"] == "pending":
                assert monotonic() < deadline_s
                sleep(0.05)
            return str(answer["audio"])

        again = {"task_id": task_id, "audio": audio(), "prompt_duration": 2}
        made = tree(far, task_id, "attempt", "storing", *OLD_STAGES)
        assert [span.name for span in made.spans if span.name in OLD_STAGES] == OLD_STAGES
        assert http.post("/continue", json=again).status_code == 200
        audio()
    seen = tree(far, task_id, *["accept", "attempt", "storing", "decode", "crop", "play", "encode"] * 2)
    generated, continued = seen.all("accept")
    assert (generated.facts["http.route"], generated.parent_id) == ("/generate", "")
    assert (continued.facts["http.route"], continued.parent_id) == ("/continue", generated.span_id)
    assert [attempt.facts["gary.job"] for attempt in seen.all("attempt")] == ["generate", "continue"]
    assert all(seen.way(span)[0] == "accept" for span in seen.spans)


def test_a_fetch_that_fails_says_why(traced: Running, far: Collector) -> None:
    """By the error's code, in every span that it passed; nothing comes after it."""
    task = create(traced, f"http://{traced.media.host}/trace-nowhere.wav")
    done = ended(traced, task.id)
    assert done.state is State.FAILED
    seen = tree(far, task.id, "attempt", "fetching", "fetch")
    assert done.error is not None
    assert {span.name: span.error for span in seen.spans} == {
        "accept": None,
        "queued": None,
        "attempt": done.error.code,
        "fetching": done.error.code,
        "fetch": done.error.code,
    }


def test_the_next_attempt_after_a_kill_is_in_the_same_trace(traced: Running, far: Collector, song: bytes) -> None:
    """The conductor that takes the task over tells of the attempt that was lost, so that nothing hangs in the air."""
    url = traced.media.put("/trace-held.wav", song)
    released = traced.media.hold("/trace-held.wav")
    task = create(traced, url)
    assert traced.media.wait_until_asked("/trace-held.wav", 60)
    for pid in replica_pids("Conductor", APP):
        os.kill(pid, signal.SIGKILL)
    released.set()
    assert ended(traced, task.id).state is State.COMPLETED
    seen = tree(far, task.id, "attempt", "attempt", "storing", "fetching", "fetching")
    lost, done = seen.all("attempt")
    assert (lost.facts["gary.outcome"], lost.error, lost.facts["gary.attempt"]) == ("lost", "lease_lost", 1)
    assert (done.facts["gary.outcome"], done.error, done.facts["gary.attempt"]) == ("completed", None, 2)
    assert lost.facts["gary.worker"] != done.facts["gary.worker"]
    assert lost.parent_id == done.parent_id == seen.the("accept").span_id
    assert all(seen.way(span)[:2] in (["accept"], ["accept", "queued"], ["accept", "attempt"]) for span in seen.spans)
