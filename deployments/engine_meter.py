"""A replica's engines as metrics: read now and then from what the engines count for themselves."""

from collections.abc import Callable, Iterable
from itertools import accumulate
from time import monotonic

from deployments.metrics import (
    ENGINE_FRAMES,
    ENGINE_KV,
    ENGINE_KV_USED,
    ENGINE_MUSIC,
    ENGINE_SLOT_STEPS,
    ENGINE_SLOTS,
    ENGINE_SLOTS_USED,
    ENGINE_STEP_TIME,
    ENGINE_STEPS,
    ENGINE_WAITING,
    REALTIME_FACTOR,
    STEP_BUCKETS,
    Meter,
)
from gary.engine.request import Began, GenerationEvent, Progress
from gary.engine.stats import Counting, EngineStats


class EngineMeter:
    """Tells what all engines of a replica do together."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def tell(self, engines: Iterable[object]) -> None:
        """Args:
        engines: those that are loaded; those that do not count are passed over.
        """
        all_stats = []
        for engine in engines:
            if isinstance(engine, Counting):
                stats = engine.stats()
                self._totals(engine, stats)
                all_stats.append(stats)
        rooms = [stats.occupancy for stats in all_stats]
        self._meter.set(ENGINE_SLOTS, sum(room.slots for room in rooms))
        self._meter.set(ENGINE_SLOTS_USED, sum(room.slots_in_use for room in rooms))
        self._meter.set(ENGINE_WAITING, sum(room.waiting for room in rooms))
        self._meter.set(ENGINE_KV, sum(stats.row_bytes * stats.occupancy.rows for stats in all_stats))
        self._meter.set(ENGINE_KV_USED, sum(stats.row_bytes * stats.occupancy.rows_in_use for stats in all_stats))

    def _totals(self, engine: object, stats: EngineStats) -> None:
        for bucket, steps in zip(STEP_BUCKETS, accumulate(stats.steps_by_time), strict=True):
            self._meter.add_up_to(ENGINE_STEPS, steps, engine, le=bucket)
        self._meter.add_up_to(ENGINE_STEP_TIME, stats.step_s, engine)
        self._meter.add_up_to(ENGINE_SLOT_STEPS, stats.slot_steps, engine)
        self._meter.add_up_to(ENGINE_FRAMES, stats.frames, engine)
        self._meter.add_up_to(ENGINE_MUSIC, stats.frames * stats.frame_s, engine)


class RequestPace:
    """How fast one request's music was made, told when it is done.

    Args:
        clock_s: a clock that does not jump.
    """

    def __init__(self, meter: Meter, clock_s: Callable[[], float] = monotonic) -> None:
        self._meter = meter
        self._clock_s = clock_s
        self._began: tuple[Began, float] | None = None
        self._frames = 0

    def hear(self, event: GenerationEvent) -> None:
        match event:
            case Began():
                self._began = event, self._clock_s()
            case Progress(frames_done=frames):
                self._frames = frames

    def done(self) -> None:
        """The request has ended well."""
        if self._began is None:
            return
        (began, since_s), now_s = self._began, self._clock_s()
        if self._frames and now_s > since_s:
            music_s = self._frames * began.card.frame_samples / began.card.sample_rate_hz
            self._meter.observe(REALTIME_FACTOR, music_s / (now_s - since_s))
