"""What the figures of `scripts/bench scale` rest on: arrivals, percentiles, the knee's rule, the engine's timer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.scale_curve import Point, knee_per_s, percentile, point
from benchmarks.scale_engine import FRAME_SAMPLES, FRAMES_PER_S, PacedEngine
from benchmarks.scale_figures import digest, read_figures, write_figures
from benchmarks.scale_load import arrivals_s
from benchmarks.scale_parts import Reading, spent
from benchmarks.scale_plot import plot
from gary.audio.clip import Clip
from gary.engine.request import AudioStretch, Began, GenerationRequest, Progress, TakeCodes
from tests.running import ROOT


def carried(offered_per_s: float, p95_s: float, finished_per_s: float | None = None) -> Point:
    return Point(offered_per_s, 10.0, 10, offered_per_s if finished_per_s is None else finished_per_s, 1.0, p95_s, 3.0)


def test_arrivals_are_those_of_their_seed() -> None:
    """The same seed draws the same times, another seed others, all within the window and in order."""
    first = arrivals_s(3.0, 20.0, seed=1)
    assert first == arrivals_s(3.0, 20.0, seed=1)
    assert first != arrivals_s(3.0, 20.0, seed=2)
    assert first == sorted(first)
    assert len(first) == 60
    assert first[0] >= 0
    assert first[-1] <= 20


def test_arrivals_are_a_poisson_process() -> None:
    """The time between two arrivals is exponential: its mean is its standard deviation, e^-1 of them are longer."""
    gaps_s = np.diff(arrivals_s(100.0, 1000.0, seed=3))
    assert gaps_s.mean() == pytest.approx(0.01, rel=0.02)
    assert gaps_s.std() == pytest.approx(gaps_s.mean(), rel=0.02)
    assert (gaps_s > gaps_s.mean()).mean() == pytest.approx(np.exp(-1), rel=0.02)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_one_of_the_values(values: list[float], share: float) -> None:
    """It is the smallest of them that at least that share is not above."""
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9 * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_a_late_service_is_not_spared() -> None:
    """What the last task is late counts as time, but for the rule's allowance; what was refused has no time."""
    at_s = [0.0, 1.0, 2.0, 3.0]
    met = point(at_s, [1.0, 1.5, None, 2.5], window_s=4.0, alone_s=0.5)
    assert met.finished_per_s == pytest.approx(3 / 4.5)  # the last ends at 5.5, and 5.0 is allowed
    assert met.refused == 1
    assert (met.p50_s, met.p95_s) == (1.5, 2.5)
    assert point(at_s, [2.0] * 4, window_s=4.0, alone_s=0.5).finished_per_s == 1.0


def test_the_knee_lies_where_the_rule_ends() -> None:
    """On the line from the last load that is carried to the first that is not; earlier, where fewer are finished."""
    slower = [carried(1, 1.0), carried(2, 1.5), carried(4, 2.5)]
    assert knee_per_s(slower, alone_s=1.0) == pytest.approx(3.0)
    fewer = [*slower[:2], carried(4, 2.5, finished_per_s=3.0)]
    assert knee_per_s(fewer, alone_s=1.0) == pytest.approx(2 + 2 * 0.05 / 0.25)


def test_no_knee_is_made_up() -> None:
    """There is none where all loads are carried, or not even the first."""
    assert knee_per_s([carried(1, 1.0), carried(2, 1.9)], alone_s=1.0) is None
    assert knee_per_s([carried(1, 2.1), carried(2, 1.0)], alone_s=1.0) is None
    assert knee_per_s([], alone_s=1.0) is None


def test_what_was_there_before_is_not_spent() -> None:
    """Cores are what was added between two readings; parts that came or went in between are not told."""
    before = Reading(10.0, {"a": 5.0, "gone": 1.0}, busy_s=100.0, operations={"insert": 7})
    after = Reading(14.0, {"a": 7.0, "new": 3.0}, busy_s=103.0, operations={"insert": 27})
    took = spent(before, after)
    assert took.cores == {"a": 0.5}
    assert took.others_cores == pytest.approx(0.25)
    assert took.operations_per_s == {"insert": 5.0}


async def test_a_paced_engine_makes_what_was_asked_for() -> None:
    """The stretches follow each other from the prompt's first sample to the last one, and the codes are as long."""
    prompt = Clip(np.zeros((1, 2 * FRAMES_PER_S * FRAME_SAMPLES), np.float32), 32_000)  # [C, N], 2 s
    request = GenerationRequest("1", 5.0, seed=1)
    events = [event async for event in PacedEngine(1, 0.0).generate(request, prompt)]
    assert isinstance(events[0], Began)
    assert (events[0].prompt_samples, events[0].length_samples) == (64_000, 160_000)
    at_sample = 0
    for stretch in (event for event in events if isinstance(event, AudioStretch)):
        assert stretch.start_sample == at_sample
        at_sample += stretch.clip.length_samples
    assert at_sample == 160_000
    assert [event for event in events if isinstance(event, Progress)][-1] == Progress(150, 150)
    assert isinstance(events[-1], TakeCodes)
    assert events[-1].codes.shape == (4, 250)


async def test_a_paced_engine_holds_its_slots() -> None:
    """Three requests at two slots take two requests' time, two no longer than one."""
    engine, loop = PacedEngine(2, 0.002), asyncio.get_running_loop()

    async def together(requests: int) -> float:
        since_s = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(requests):
                group.create_task(drained(engine, str(number)))
        return loop.time() - since_s

    assert 0.2 <= await together(2) < 0.4
    assert await together(3) >= 0.4


async def drained(engine: PacedEngine, name: str) -> None:
    async for _ in engine.generate(GenerationRequest(name, 2.0, seed=1), None):
        pass


def test_the_picture_is_of_the_figures_that_are_kept(tmp_path: Path) -> None:
    """The page's picture says that it was drawn from the file that capacity is reckoned with, and is small."""
    figures, kept = read_figures(ROOT / "benchmarks/scale.json"), ROOT / "docs/pictures/scale.png"
    plot(figures, tmp_path / "scale.png")
    with Image.open(tmp_path / "scale.png") as drawn, Image.open(kept) as shown:
        assert shown.info["Description"] == drawn.info["Description"] == digest(figures)
        assert shown.size == drawn.size
    assert kept.stat().st_size < 200_000


def test_figures_survive_their_file(tmp_path: Path) -> None:
    """What was written is what is read."""
    figures = read_figures(ROOT / "benchmarks/scale.json")
    write_figures(figures, tmp_path / "again.json")
    assert read_figures(tmp_path / "again.json") == figures
    assert (tmp_path / "again.json").read_bytes() == (ROOT / "benchmarks/scale.json").read_bytes()
