"""An engine's own numbers as metrics, and a request's pace."""

from __future__ import annotations

import pytest

from deployments import metrics
from deployments.engine_meter import EngineMeter, RequestPace
from deployments.metrics import Meter
from gary.engine.request import Began, ModelCard, Progress
from gary.engine.stats import EngineStats, Occupancy, Tally
from tests.unit.metering import Kept

CARD = ModelCard("", "", "", "fp32", "cpu", sample_rate_hz=32_000, channels=1, frame_samples=640)


class Counter:
    """An engine that has a tally and does nothing."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.occupancy = Occupancy(slots=4, slots_in_use=1, rows=8, rows_in_use=2, waiting=0)

    def stats(self) -> EngineStats:
        tally = self.tally
        return EngineStats(
            steps_by_time=tuple(tally.steps_by_time),
            step_s=tally.step_s,
            slot_steps=tally.slot_steps,
            frames=tally.frames,
            frame_s=0.02,
            occupancy=self.occupancy,
            row_bytes=1000,
        )


def test_steps_by_time() -> None:
    """Each bucket holds those that took at most so long, as Prometheus counts them; told again, nothing is counted
    twice."""
    meter, engine = EngineMeter(Meter(kept := Kept())), Counter()
    for took_s in (0.001, 0.002, 0.003, 0.04, 9.0):
        engine.tally.stepped(took_s, slots=2)
    for _ in range(2):
        meter.tell([engine])
    by_bucket = {key[1]: value for key, value in kept.values.items() if key[0] == metrics.ENGINE_STEPS.name}
    assert (by_bucket["0.002"], by_bucket["0.005"], by_bucket["0.05"], by_bucket["5"]) == (2, 3, 4, 4)
    assert by_bucket["+Inf"] == engine.stats().steps == 5
    assert kept.of(metrics.ENGINE_STEP_TIME) == pytest.approx(9.046)
    assert kept.of(metrics.ENGINE_SLOT_STEPS) == 10


def test_all_engines_of_a_replica_together() -> None:
    """Rooms are added up; an engine that does not count is passed over; one that goes takes its room along."""
    meter, engines = EngineMeter(Meter(kept := Kept())), [Counter(), Counter()]
    engines[0].tally.frames, engines[1].tally.frames = 100, 50
    meter.tell([*engines, object()])
    assert (kept.of(metrics.ENGINE_SLOTS), kept.of(metrics.ENGINE_SLOTS_USED)) == (8, 2)
    assert (kept.of(metrics.ENGINE_KV), kept.of(metrics.ENGINE_KV_USED)) == (16_000, 4_000)
    assert kept.of(metrics.ENGINE_FRAMES) == 150
    assert kept.of(metrics.ENGINE_MUSIC) == pytest.approx(3.0)
    meter.tell(engines[:1])
    assert kept.of(metrics.ENGINE_SLOTS) == 4
    assert kept.of(metrics.ENGINE_FRAMES) == 150


def test_a_request_s_pace() -> None:
    """Seconds of music of all takes by the seconds since it began; nothing of one that made nothing."""
    meter, now_s = Meter(kept := Kept()), 100.0
    pace = RequestPace(meter, lambda: now_s)
    pace.done()
    pace.hear(Began(CARD, prompt_samples=0, length_samples=320_000))
    pace.hear(Progress(0, 1000))
    now_s = 104.0
    pace.hear(Progress(1000, 1000))
    now_s = 105.0
    pace.done()
    assert kept.observed == {(metrics.REALTIME_FACTOR.name,): [pytest.approx(20.0 / 5.0)]}
