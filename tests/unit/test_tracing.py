"""Spans as values: whose they are, what they may say, how they end; and that nothing is done where there are none."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bson import ObjectId
from pydantic import ValidationError

from deployments.handles import Calls
from deployments.hearing import Hearing
from deployments.spans import FACT_CHARACTERS, FACTS, SPANS, Ended, trace_id_of, within
from deployments.tracing import OFF, Tracing, traced
from gary.audio.clip import Clip
from gary.config import TracingConfig
from gary.engine.request import AudioStretch, Began, GenerationRequest, ModelCard, Progress, TakeCodes
from gary.errors import DeviceError, SourceError

ROOT = Path(__file__).parents[2]
TASK = "6921f0c2a7b1c3d4e5f60718"
CARD = ModelCard("c" * 64, "a" * 64, "1", "fp32", "cpu", 32_000, 1, 640)
TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01")


@pytest.fixture
def told() -> list[Ended]:
    return []


@pytest.fixture
def tracing(told: list[Ended]) -> Tracing:
    """Its clock counts."""
    ticks = count(1)
    return Tracing(told.append, clock_ns=lambda: next(ticks))


def test_ids_follow_from_the_task(tracing: Tracing) -> None:
    """Any process says the same, another task's and another attempt's are others, and the trace's is the task's."""
    other = Tracing(lambda ended: None)
    root, first, second = tracing.root(TASK), tracing.attempt(TASK, 1), tracing.attempt(TASK, 2)
    assert (root, first, second) == (other.root(TASK), other.attempt(TASK, 1), other.attempt(TASK, 2))
    assert len({root, first, second, tracing.root("0" * 24)}) == 4
    for place in (root, first, second):
        assert place is not None
        assert TRACEPARENT.fullmatch(place)
        assert place[3:35] == trace_id_of(TASK) == "00000000" + TASK


@pytest.mark.parametrize(("ratio", "least", "most"), [(0.0, 0, 0), (0.25, 150, 350), (1.0, 1000, 1000)])
def test_every_process_traces_the_same_share_of_tasks(ratio: float, least: int, most: int) -> None:
    """Also where one process makes all ids, which then differ in their last digits alone."""
    tasks = [str(ObjectId()) for _ in range(1000)]
    ingress, conductor = Tracing(lambda ended: None, ratio), Tracing(lambda ended: None, ratio)
    chosen = [task for task in tasks if ingress.root(task)]
    assert least <= len(chosen) <= most
    assert chosen == [task for task in tasks if conductor.attempt(task, 3)]


def test_off_is_off() -> None:
    """No parent is named, so nobody below is asked to do anything; what is noted is not even looked at."""
    assert OFF.root(TASK) is OFF.attempt(TASK, 1) is None
    with OFF.span("fetch", None, site="direct") as span:
        span.note(anything=[])  # type: ignore[arg-type]
    assert span.trace is None


def test_off_loads_no_exporter() -> None:
    """Nor anything of OpenTelemetry that Ray does not load by itself."""
    script = (
        "import sys, ray.serve; before = set(sys.modules)\n"
        "from deployments import conductor, cropper, fetcher, ingress, musicgen, tracing\n"
        "from gary.config import TracingConfig\n"
        "assert tracing.begin(TracingConfig()) is tracing.begin(None) is tracing.OFF\n"
        "new = set(sys.modules) - before\n"
        "assert 'deployments.tracing' in new and 'deployments.otel' not in new\n"
        "print([name for name in new if name.startswith('opentelemetry')])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr


def test_spans_hang_below_each_other(tracing: Tracing, told: list[Ended]) -> None:
    """The parent is known by a string alone; times are the clock's; what ends first is told first."""
    with tracing.span("fetching", tracing.attempt(TASK, 1)) as outer, tracing.span("fetch", outer.trace) as inner:
        inner.note(size_bytes=5, site=None)
    fetch, fetching = told
    assert (fetch.name, fetch.facts, fetch.code) == ("fetch", {"gary.size_bytes": 5}, None)
    assert fetch.parent_id == fetching.span_id != fetch.span_id
    assert f"00-{fetching.trace_id}-{fetching.parent_id}-01" == tracing.attempt(TASK, 1)
    assert fetching.begin_ns < fetch.begin_ns < fetch.end_ns < fetching.end_ns


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SourceError("https://u:pw@host/private?token=1", "private"), "private"),
        (ValueError("a bug"), "internal"),
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "cancelled"),
    ],
    ids=repr,
)
def test_an_error_is_told_by_its_code(tracing: Tracing, told: list[Ended], error: BaseException, code: str) -> None:
    """And goes on; its sentence stays where it is."""
    with pytest.raises(type(error)), tracing.span("fetch", tracing.root(TASK)):
        raise error
    assert told[0].code == code
    assert "host" not in repr(told)


def test_what_a_span_says_is_bounded(tracing: Tracing, told: list[Ended]) -> None:
    """Only what the catalogue knows; words are short and clean; bytes and other values are a bug of ours."""
    with tracing.span("fetch", tracing.root(TASK), model="m" * 5_000, site="https://u:pw@host/?token=secret") as span:
        with pytest.raises(KeyError):
            span.note(url="https://host")
        with pytest.raises(AssertionError):
            span.note(model=b"RIFF")  # type: ignore[arg-type]
        with pytest.raises(AssertionError):
            span.event("anything")
    with pytest.raises(AssertionError):
        tracing.begin("anything", None)
    (ended,) = told
    assert ended.facts.keys() == {"gary.model", "gary.site"}
    assert all(len(str(value)) <= FACT_CHARACTERS for value in ended.facts.values())
    assert not re.search("pw|secret", repr(ended))


def test_a_span_ends_once(tracing: Tracing, told: list[Ended]) -> None:
    span = tracing.begin("take", tracing.root(TASK))
    span.end("device_failed")
    span.end()
    assert [ended.code for ended in told] == ["device_failed"]


def test_every_name_of_the_catalogue_is_used() -> None:
    """By some deployment, as it stands."""
    code = "".join(path.read_text() for path in (ROOT / "deployments").glob("*.py") if path.name != "spans.py")
    assert [name for name in SPANS if f'"{name}"' not in code] == []
    assert [fact for fact in FACTS if not re.search(rf'\b{fact}=|"{fact}"', code)] == []


async def test_a_dressed_method_is_a_span(tracing: Tracing, told: list[Ended]) -> None:
    """Where it is given a parent; its values and errors pass."""

    class Desk:
        def __init__(self) -> None:
            self.tracing = tracing

        @traced("decode")
        async def half(self, value: int) -> float:
            if not value:
                raise DeviceError("nothing")
            return value / 2

    desk = Desk()
    assert await desk.half(3) == 1.5
    assert told == []
    assert await desk.half(3, trace=tracing.root(TASK)) == 1.5
    with pytest.raises(DeviceError):
        await desk.half(0, trace=tracing.root(TASK))
    assert [(ended.name, ended.code) for ended in told] == [("decode", None), ("decode", "device_failed")]


def test_a_stage_is_the_parent_of_its_calls(tracing: Tracing, told: list[Ended]) -> None:
    """Within its block alone, left by an error too; whoever knows the attempt knows the stage's place."""
    attempt = tracing.attempt(TASK, 1)
    calls, seen = Calls(tracing, attempt), []

    def lost() -> None:
        seen.append(calls.told["trace"])
        raise DeviceError("the replica was lost", "replica_lost")

    with pytest.raises(DeviceError), calls.stage("generating"):
        lost()
    assert calls.trace == attempt
    with Calls().stage("generating"):
        assert Calls().told == {}
    assert seen == [f"00-{told[0].trace_id}-{told[0].span_id}-01"] == [within(attempt, "generating")]
    assert told[0].code == "replica_lost"


def stretch(take: int, start_sample: int = 0) -> AudioStretch:
    return AudioStretch(start_sample, Clip(np.zeros((1, 640), np.float32), 32_000), take)


def codes(take: int, frames: int) -> TakeCodes:
    return TakeCodes(take, np.zeros((4, frames), np.int16))


REQUEST = GenerationRequest(id="r", duration_s=3.0, seed=1, takes=2)


def test_a_generation_is_told_in_its_parts(tracing: Tracing, told: list[Ended]) -> None:
    """One after the other: load, prompt, prefill; the takes beside each other, each with its first audio, once."""
    with Hearing(tracing, tracing.root(TASK), "small", REQUEST) as hearing:
        hearing.loaded()
        for event in (Began(CARD, 640, 96_000), Progress(0, 200), Progress(2, 200), stretch(0), stretch(1)):
            hearing.hear(event)
        hearing.hear(stretch(0, 640))
        hearing.hear(codes(1, 150))
        hearing.hear(codes(0, 151))
    parts = {f"{ended.name} {ended.facts.get('gary.take', '')}".strip(): ended for ended in told}
    assert list(parts) == ["load", "prompt", "prefill", "take 1", "take 0", "play"]
    assert parts["load"].end_ns < parts["prompt"].begin_ns < parts["prompt"].end_ns < parts["prefill"].begin_ns
    whole = parts.pop("play")
    assert whole.facts == {"gary.model": "small", "gary.takes": 2, "gary.length_s": 3.0}
    assert {part.parent_id for part in parts.values()} == {whole.parent_id}
    for take, frames in ((0, 151), (1, 150)):
        ended = parts[f"take {take}"]
        assert ended.facts["gary.frames"] == frames
        assert ended.facts["gary.model"] == "small"
        assert [name for name, _ in ended.events] == ["first audio"]
        assert parts["prefill"].end_ns < ended.events[0][1] < ended.end_ns


def test_a_generation_that_breaks_off_ends_all_its_parts(tracing: Tracing, told: list[Ended]) -> None:
    """Those that were open, by the error; those that were over, well."""

    def broken(hearing: Hearing) -> None:
        hearing.loaded()
        hearing.hear(Began(CARD, 640, 96_000))
        hearing.hear(Progress(0, 200))
        raise DeviceError("gone")

    with pytest.raises(DeviceError), Hearing(tracing, tracing.root(TASK), "small", REQUEST) as hearing:
        broken(hearing)
    ends = [(ended.name, ended.code) for ended in told]
    failed = "device_failed"
    assert ends == [("load", None), ("prompt", None), *((name, failed) for name in ("prefill", "take", "take", "play"))]


@pytest.mark.parametrize(
    "endpoint", ["", "localhost:4318", "ftp://host", "https://user:secret@host/", "http://host/?key=1", "http://a b"]
)
def test_an_endpoint_is_a_plain_url(endpoint: str) -> None:
    """Without a place for secrets."""
    assert TracingConfig(endpoint="https://host:4318/otlp").endpoint == "https://host:4318/otlp"
    with pytest.raises(ValidationError):
        TracingConfig(endpoint=endpoint)


@pytest.mark.parametrize(
    ("args", "variable", "endpoint"),
    [
        ({}, None, None),
        ({}, "", None),
        ({}, "http://far:4318", "http://far:4318"),
        ({"endpoint": "http://near:4318", "sample_ratio": 0.5}, "http://far:4318", "http://near:4318"),
    ],
)
def test_a_collector_is_named_in_the_arguments_or_the_environment(
    args: dict[str, Any], variable: str | None, endpoint: str | None
) -> None:
    """The arguments are asked first; every deployment but the database is told."""
    script = (
        "import json, sys; from deployments.app import build; from gary.config import AppArgs\n"
        "models = [{'name': 'm', 'checkpoint': 'm', 'size': 'tiny'}]\n"
        "app = build(AppArgs(models=models, default_model='m', tracing=json.loads(sys.argv[1])))\n"
        "args, uri, conductor, cropper = app._bound_deployment.init_args\n"
        "of = conductor._bound_deployment.init_args\n"
        "(musicgen,) = of[4].values()\n"
        "told = [args, of[0]]\n"
        "told = [each.tracing for each in told] + [of[2]._bound_deployment.init_args[2]]\n"
        "told += [cropper._bound_deployment.init_args[1], musicgen._bound_deployment.init_kwargs['tracing_config']]\n"
        "print(json.dumps([each.model_dump() for each in told]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    if variable is not None:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = variable
    command = [sys.executable, "-c", script, json.dumps(args)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [{"endpoint": endpoint, "sample_ratio": args.get("sample_ratio", 1.0)}] * 5
