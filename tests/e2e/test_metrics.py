"""The metrics of a running service, scraped as Prometheus does: all of the catalogue, with values that make sense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic, sleep

import httpx
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families  # Ray brings it
from prometheus_client.samples import Sample
from ray import serve

from deployments import metrics
from deployments.metrics import CATALOGUE, NONE, STAGES, Metric
from gary.client import Client, Length, LinkSource, Order, Prompt, State
from gary.config import DatabaseConfig, EngineConfig, TasksConfig
from gary.tasks.music import Length as JobLength
from gary.tasks.music import LinkSource as JobLink
from gary.tasks.music import MusicJob
from gary.tasks.store import TaskStore
from tests.running import APP_NAME, Running

TIMEOUT_S = 60.0
SHORT = Order(model="gary-tiny", length=Length(seconds=1.5), prompt=Prompt(length_s=1.0), seed=5)
FRAME_S = 0.02


class Scraped:
    """What all nodes' ports show, of this application."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        for node in ray.nodes():
            if node["Alive"]:
                url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
                for family in text_string_to_metric_families(httpx.get(url, timeout=10).text):
                    self.samples += [each for each in family.samples if each.labels.get("application") == APP_NAME]

    def of(self, metric: Metric, suffix: str = "", **labels: str) -> list[float]:
        """The values of its series that have these labels."""
        return [
            each.value
            for each in self.samples
            if each.name == metric.exported + suffix and labels.items() <= each.labels.items()
        ]

    def total(self, metric: Metric, **labels: str) -> float:
        return sum(self.of(metric, **labels))

    def observed(self, metric: Metric, **labels: str) -> float:
        """How often a histogram was told something."""
        return sum(self.of(metric, "_bucket", **labels, le="+Inf"))

    def has(self, metric: Metric) -> bool:
        return bool(self.of(metric, "_bucket" if metric.kind == "histogram" else ""))


def scraped_until(holds: Callable[[Scraped], bool], what: str) -> Scraped:
    """Replicas tell their node every ten seconds."""
    deadline_s = monotonic() + TIMEOUT_S
    while not holds(scraped := Scraped()):
        assert monotonic() < deadline_s, f"not within {TIMEOUT_S:g} s: {what}"
        sleep(0.5)
    return scraped


async def _left_behind(uri: str, database: DatabaseConfig, url: str) -> str:
    """A task whose worker is gone without a word."""
    job = MusicJob(
        source=JobLink(url=url, link=url, site="direct"),
        model="gary-tiny",
        prompt_s=1,
        side="cursor",
        length=JobLength(seconds=1.5),
        seed=1,
    )
    store = TaskStore(uri, database, TasksConfig(lease_s=0.5))
    try:
        while True:
            task_id = await store.create(job)
            if await store.claim(task_id, "a worker that is gone") is not None:  # no conductor was faster
                return task_id
    finally:
        await store.close()


def _listen(client: Client, task_id: str) -> None:
    """To a file and to a stream."""
    assert len(client.audio(task_id)) > 44
    with client.live(task_id) as live:
        assert sum(len(chunk) for chunk in live.chunks) == live.size_bytes


@pytest.fixture(scope="module")
def scraped(service: Running, client: Client, song: bytes) -> Scraped:
    """After one of each: done, retried, taken over, failed, cancelled; while one is being fetched and listened to."""
    media = service.media
    retried = client.create(LinkSource(url=media.refuse("/metrics-late.wav", 503)), SHORT)
    failed = client.create(LinkSource(url=f"http://{media.host}/metrics-nowhere.wav"), SHORT)
    done = client.create(LinkSource(url=media.put("/metrics.wav", song)), SHORT)
    uri = serve.get_deployment_handle("Database", APP_NAME).uri.remote().result(timeout_s=30)
    left = asyncio.run(_left_behind(uri, service.args.database, media.put("/metrics-left.wav", song)))
    assert client.wait(done.id).state is State.COMPLETED
    _listen(client, done.id)
    assert client.wait(failed.id).state is State.FAILED
    assert media.wait_until_asked("/metrics-late.wav", 60)  # other tests' retries are among the counted, too
    scraped_until(
        lambda seen: (
            seen.total(metrics.TASK_RETRIES, code="upstream") >= 1
            and seen.total(metrics.FETCHES, site="direct", code="upstream") >= 1
        ),
        "a retry",
    )
    media.put("/metrics-late.wav", song)
    client.wait(retried.id)  # completed, or its last attempt was made before this
    assert client.wait(left).state is State.COMPLETED
    released = media.hold("/metrics-held.wav")
    held = client.create(LinkSource(url=media.put("/metrics-held.wav", song)), SHORT)
    try:
        assert media.wait_until_asked("/metrics-held.wav", 60)
        with httpx.stream("GET", f"{service.base_url}/v1/tasks/{held.id}/events", timeout=90):
            scraped = scraped_until(
                lambda seen: (
                    all(map(seen.has, CATALOGUE))
                    and max(seen.of(metrics.LISTENERS, kind="events")) >= 1
                    and max(seen.of(metrics.QUEUE_TASKS, state="working")) >= 1
                ),
                "every metric, and a listener",
            )
    finally:
        client.cancel(held.id)
        released.set()
    scraped_until(
        lambda seen: seen.total(metrics.TASKS_FINISHED, outcome="cancelled", code=NONE) >= 1, "a cancellation"
    )
    return scraped


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_every_metric_is_there(scraped: Scraped, metric: Metric) -> None:
    """Under its name; no negative value; its labels have values of the catalogue, and no other label is ours."""
    ours = [each for each in scraped.samples if each.name.startswith(metric.exported)]
    assert scraped.has(metric)
    for sample in ours:
        assert sample.value >= 0
        for label in metric.labels.keys() & sample.labels.keys():
            assert sample.labels[label] in metric.labels[label] or (metric.kind == "histogram" and label == "le")
        assert metric.labels.keys() <= sample.labels.keys()
        assert {"deployment", "replica", "application"} <= sample.labels.keys()


def test_tasks_are_counted(scraped: Scraped) -> None:
    """One of each outcome at least, no end without a beginning, a time for each that was completed."""
    completed = scraped.total(metrics.TASKS_FINISHED, outcome="completed", code=NONE)
    assert completed >= 2
    assert scraped.total(metrics.TASKS_FINISHED, outcome="failed", code="removed") >= 1
    assert scraped.total(metrics.TASK_TAKEOVERS) >= 1
    assert scraped.total(metrics.TASK_RETRIES, code="upstream") >= 1
    assert scraped.total(metrics.TASK_ATTEMPTS) > completed
    assert scraped.observed(metrics.TASK) == completed
    for stage in STAGES:
        assert scraped.observed(metrics.TASK_STAGE, stage=stage) >= 2
    assert max(scraped.of(metrics.QUEUE_TASKS, state="working")) >= 1
    assert set(scraped.of(metrics.DATABASE_UP)) == {1.0}


def test_downloads_are_counted(scraped: Scraped, song: bytes) -> None:
    """By how they ended; the bytes are those of the song, as often as it came."""
    assert scraped.total(metrics.FETCHES, site="direct", code="removed") >= 1
    assert scraped.total(metrics.FETCHES, site="direct", code="upstream") >= 1
    well = scraped.total(metrics.FETCHES, site="direct", code=NONE)
    assert well >= 2
    assert scraped.observed(metrics.FETCH, site="direct") == well
    assert scraped.total(metrics.FETCHED) >= 2 * len(song)


def test_the_engine_agrees_with_itself(scraped: Scraped) -> None:
    """A frame is 20 ms of music; a step draws for some slots and for no more than there are; the cache is at least as
    large as what is used of it."""
    steps = scraped.total(metrics.ENGINE_STEPS, le="+Inf")
    assert steps >= 50 * 1.5
    assert scraped.total(metrics.ENGINE_STEPS, le="5") <= steps
    assert 0 < scraped.total(metrics.ENGINE_STEP_TIME) < 600
    slots = scraped.total(metrics.ENGINE_SLOTS)
    assert slots == EngineConfig().slots
    assert steps * 0.5 < scraped.total(metrics.ENGINE_SLOT_STEPS) < steps * slots
    frames = scraped.total(metrics.ENGINE_FRAMES)
    assert frames >= 2 * 1.5 / FRAME_S
    assert scraped.total(metrics.ENGINE_MUSIC) == pytest.approx(frames * FRAME_S)
    assert scraped.total(metrics.ENGINE_SLOTS_USED) <= slots
    assert 0 <= scraped.total(metrics.ENGINE_KV_USED) <= scraped.total(metrics.ENGINE_KV)
    assert scraped.total(metrics.ENGINE_KV) > 1000
    assert scraped.observed(metrics.REALTIME_FACTOR) >= 2


def test_what_was_heard_is_counted(scraped: Scraped) -> None:
    """Live and from the file; what is stored is more than one answer; whoever followed the task was seen."""
    assert scraped.total(metrics.AUDIO_SERVED, kind="file") > 32_000
    assert scraped.total(metrics.AUDIO_SERVED, kind="live") > 32_000
    assert scraped.total(metrics.AUDIO_STORED) > 64_000
    assert max(scraped.of(metrics.LISTENERS, kind="events")) >= 1
