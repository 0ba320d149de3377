"""Every metric of the service, as a catalogue, and the one place that makes them with ray.serve.metrics.

A label takes its values from a closed set that stands here: whatever else comes is told as `other`. So the number of
series is known beforehand, whoever sends what; Serve adds the deployment, the replica and the application. Names carry
their unit. Prometheus sees them with `ray_` before them, from the port that each node shows its metrics on.

A histogram's sum is not to be trusted: Ray makes it of the buckets' middles. Whoever needs a mean has two counters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

from ray.serve import metrics as serve_metrics

from gary.errors import SOURCE_CODES, SOURCE_UNAVAILABLE_CODES

OTHER = "other"
NONE = "none"  # the code of what did not fail

STAGES = ("queued", "fetching", "generating", "encoding")
SITES = frozenset({"youtube", "soundcloud", "direct", OTHER})
# Whatever may fail a task, be it the audio, a link or the service itself; a code that is none of these is news.
CODES = (
    SOURCE_CODES
    | SOURCE_UNAVAILABLE_CODES
    | frozenset(
        [
            "bad_range",
            "empty",
            "empty_audio",
            "empty_range",
            "invalid_input",
            "no_audio",
            "no_clips",
            "not_audio",
            "not_base64",
            "other_codec",
            "too_costly",
            "too_long",
            "too_many_clips",
            "too_short",
            "unknown_take",
            "unsupported_channels",
            "unsupported_rate",
            "source_gone",
            "aborted",
            "attempts_exhausted",
            "audio_gone",
            "cannot_confine",
            "checkpoint",
            "cookie_file",
            "database_refused",
            "database_unavailable",
            "device_failed",
            "disk_full",
            "encode_failed",
            "fatal",
            "illegal_transition",
            "internal",
            "lease_lost",
            "model_away",
            "no_process",
            "no_temporary_file",
            "not_codes",
            "replica_lost",
            "stalled",
            "task_shape",
            "tool_missing",
            "unavailable",
        ]
    )
    | {OTHER}
)
STEP_BOUNDS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STEP_BUCKETS = (*(f"{bound:g}" for bound in STEP_BOUNDS_S), "+Inf")

_TASK_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 240.0, 600.0, 1800.0)


@dataclass(frozen=True, eq=False)
class Metric:
    """Attributes:
    labels: the values that each may have.
    boundaries: upper ends of a histogram's buckets, in the unit of its name.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: Mapping[str, frozenset[str]] = field(default_factory=dict)
    boundaries: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """Its name as Prometheus has it; a histogram's buckets are called so with `_bucket`."""
        return f"ray_{self.name}"

    @property
    def series_max(self) -> int:
        """Series of one replica, a histogram's buckets apart."""
        series = 1
        for values in self.labels.values():
            series *= len(values)
        return series


_counter = partial(Metric, kind="counter")
_gauge = partial(Metric, kind="gauge")
_histogram = partial(Metric, kind="histogram")

# From the conductors, all of which see the one queue.
QUEUE_TASKS = _gauge(
    name="gary_queue_tasks",
    description="unfinished tasks: queued, or worked on",
    labels={"state": frozenset({"queued", "working"})},
)
QUEUE_OLDEST_WAIT = _gauge(
    name="gary_queue_oldest_wait_seconds", description="since the longest waiting task came; 0 where none waits"
)
DATABASE_UP = _gauge(name="gary_database_up", description="1 where the conductor's latest look was answered, else 0")

# From whoever wrote the change into the store: each change is told by one process.
TASKS_ACCEPTED = _counter(name="gary_tasks_accepted_total", description="tasks that were let in")
TASK_ATTEMPTS = _counter(name="gary_task_attempts_total", description="times a task was begun")
TASK_RETRIES = _counter(
    name="gary_task_retries_total",
    description="attempts that failed and are followed by another, by why",
    labels={"code": CODES},
)
TASK_TAKEOVERS = _counter(
    name="gary_task_takeovers_total", description="tasks taken from a worker whose lease had run out"
)
TASKS_FINISHED = _counter(
    name="gary_tasks_finished_total",
    description="tasks that are over, by how and why",
    labels={"outcome": frozenset({"completed", "failed", "cancelled"}), "code": CODES | {NONE}},
)
TASK_STAGE = _histogram(
    name="gary_task_stage_seconds",
    description="from the beginning of a stage to that of the next one",
    labels={"stage": frozenset(STAGES)},
    boundaries=_TASK_BOUNDS_S,
)
TASK = _histogram(
    name="gary_task_seconds",
    description="from a job's coming to its completion",
    boundaries=_TASK_BOUNDS_S,
)
AUDIO_STORED = _counter(
    name="gary_audio_stored_bytes_total", description="uploads, answers and their codes that were stored"
)

# From the fetchers.
FETCHES = _counter(
    name="gary_fetches_total",
    description="downloads that ended, by site and by how: none, an error's code, or cancelled",
    labels={"site": SITES, "code": CODES | {NONE, "cancelled"}},
)
FETCH = _histogram(
    name="gary_fetch_seconds",
    description="a download that succeeded",
    labels={"site": SITES},
    boundaries=_TASK_BOUNDS_S,
)
FETCHED = _counter(name="gary_fetched_bytes_total", description="of downloads that succeeded")

# From the replicas of MusicGen.
ENGINE_STEPS = _counter(
    name="gary_engine_steps_total",
    description="decode steps that took at most so many seconds; all of them with le=+Inf",
    labels={"le": frozenset(STEP_BUCKETS)},
)
ENGINE_STEP_TIME = _counter(name="gary_engine_step_seconds_total", description="spent in decode steps")
ENGINE_SLOT_STEPS = _counter(
    name="gary_engine_slot_steps_total", description="slots that drew in a step, over all steps: the batch, summed up"
)
ENGINE_FRAMES = _counter(name="gary_engine_frames_total", description="frames of codes made, over all takes")
ENGINE_MUSIC = _counter(name="gary_engine_music_seconds_total", description="of music, in the frames made")
ENGINE_SLOTS = _gauge(name="gary_engine_slots", description="takes that can be decoded at once")
ENGINE_SLOTS_USED = _gauge(name="gary_engine_slots_in_use", description="takes that are being decoded")
ENGINE_WAITING = _gauge(name="gary_engine_waiting_takes", description="takes that wait for a slot")
ENGINE_KV = _gauge(name="gary_engine_kv_bytes", description="of the cache of keys and values")
ENGINE_KV_USED = _gauge(name="gary_engine_kv_in_use_bytes", description="of the cache, whose rows are somebody's")
REALTIME_FACTOR = _histogram(
    name="gary_request_realtime_factor_ratio",
    description="seconds of new music, over all takes, made in a second of a request's time in the engine",
    boundaries=(0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0),
)

# From the ingress.
AUDIO_SERVED = _counter(
    name="gary_audio_served_bytes_total",
    description="audio in answers; that of the old routes, which stands in JSON, is not in it",
    labels={"kind": frozenset({"live", "file"})},
)
LISTENERS = _gauge(
    name="gary_listeners",
    description="answers that go on while a task does: its music, its events",
    labels={"kind": frozenset({"live", "events"})},
)

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))

Sink = Callable[[Metric, float, dict[str, str]], None]


class ServeSink:
    """Makes each metric when it is first told of, in the replica that tells it."""

    def __init__(self) -> None:
        self._tell: dict[Metric, Callable[[float, dict[str, str]], None]] = {}

    def __call__(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        if metric not in self._tell:
            self._tell[metric] = _made(metric)
        self._tell[metric](value, labels)


def _made(metric: Metric) -> Callable[[float, dict[str, str]], None]:
    keys: Any = tuple(metric.labels)  # of any length, whatever Ray's annotation says
    match metric.kind:
        case "counter":
            return serve_metrics.Counter(metric.name, metric.description, keys).inc
        case "gauge":
            return serve_metrics.Gauge(metric.name, metric.description, keys).set
        case "histogram":
            return serve_metrics.Histogram(metric.name, metric.description, list(metric.boundaries), keys).observe


class Meter:
    """What a replica tells its metrics by. Cheap; never raises for a value that somebody sent."""

    def __init__(self, sink: Sink | None = None) -> None:
        self._sink = sink if sink is not None else ServeSink()
        self._seen: WeakKeyDictionary[object, dict[tuple[Metric, str], float]] = WeakKeyDictionary()

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Adds to a counter; nothing happens where the amount is 0."""
        assert metric.kind == "counter", f"{metric.name} is a {metric.kind}"
        assert amount >= 0, f"{metric.name} only rises, and not by {amount}"
        if amount:  # Ray refuses to add 0
            self._sink(metric, amount, _closed(metric, labels))

    def add_up_to(self, metric: Metric, total: float, source: object, **labels: str) -> None:
        """Adds what a running total has grown by since `source`, whose total it is, was last asked for it."""
        seen, key = self._seen.setdefault(source, {}), (metric, repr(sorted(labels.items())))
        self.add(metric, total - seen.get(key, 0.0), **labels)
        seen[key] = total

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        assert metric.kind == "gauge", f"{metric.name} is a {metric.kind}"
        self._sink(metric, value, _closed(metric, labels))

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        assert metric.kind == "histogram", f"{metric.name} is a {metric.kind}"
        self._sink(metric, value, _closed(metric, labels))


def _closed(metric: Metric, labels: Mapping[str, str]) -> dict[str, str]:
    assert labels.keys() == metric.labels.keys(), f"{metric.name} has the labels {[*metric.labels]}, not {[*labels]}"
    closed = {name: value if value in metric.labels[name] else OTHER for name, value in labels.items()}
    assert all(value in metric.labels[name] for name, value in closed.items()), f"{metric.name}: {labels}"
    return closed
