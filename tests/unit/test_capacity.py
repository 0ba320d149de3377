"""The capacity model against the run that is kept, and the page against the model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.capacity import FIGURES, tables
from benchmarks.capacity_model import Check, checks, knees, slowed
from benchmarks.capacity_needs import DEVICES, Device, Habit, ceilings, need
from benchmarks.scale_figures import Engine, Figures, read_figures
from tests.running import ROOT

NEAR = 0.15


@pytest.fixture(scope="module")
def figures() -> Figures:
    return read_figures(FIGURES)


@pytest.fixture(scope="module")
def checked(figures: Figures) -> list[Check]:
    return checks(figures)


def test_the_run_is_a_whole_one(figures: Figures) -> None:
    """Both series, 1, 2 and 4 replicas each, with loads on both sides of a knee."""
    assert not figures.conditions["quick"]
    assert [(each.engine, each.replicas) for each in figures.series] == [
        (engine, replicas) for engine in ("tiny", "paced") for replicas in (1, 2, 4)
    ]


def test_task_times_below_the_knee(checked: list[Check]) -> None:
    """The median is within 15 % of the measured one at each load below the knee."""
    off = {
        (each.series.engine, each.series.replicas, each.measured.offered_per_s): each.p50_error
        for each in checked
        if each.is_below_knee
    }
    assert off
    assert all(abs(error) <= NEAR for error in off.values()), off


def test_finished_below_the_knee(checked: list[Check]) -> None:
    """Tasks a second are within 15 % of the measured at each load below the knee."""
    below = [each for each in checked if each.is_below_knee]
    assert all(abs(each.finished_error) <= NEAR for each in below), below


def test_the_knees(figures: Figures, checked: list[Check]) -> None:
    """Where the loads show a knee, the model's is within 15 % of it."""
    found = {(each.engine, each.replicas): knees(each, checked) for each in figures.series}
    both = {which: (measured, model) for which, (measured, model) in found.items() if measured and model}
    assert len(both) >= 4, found
    assert all(abs(model / measured - 1) <= NEAR for measured, model in both.values()), both


def test_company_slows() -> None:
    """The speed in company lies on straight lines between what was measured, and beyond it stays as it was."""
    speed = slowed([Engine(1, 1.0, 1.0), Engine(2, 1.5, 1.0), Engine(4, 2.0, 1.0)])
    assert [1 / speed(requests) for requests in (1, 2, 3, 4, 9)] == pytest.approx([1.0, 1.5, 1.75, 2.0, 2.0])


def test_needs_grow_with_listeners(figures: Figures) -> None:
    """A hundred times the listeners have a hundred times the traffic, and never more than that of the GPUs."""
    few, many = (need(figures, Habit(), listeners) for listeners in (100, 10_000))
    assert many.tasks_per_s == pytest.approx(100 * few.tasks_per_s)
    assert many.out_bytes_per_s == pytest.approx(100 * few.out_bytes_per_s)
    assert many.operations_per_s == pytest.approx(100 * few.operations_per_s)
    assert all(few.gpus[device.size] <= many.gpus[device.size] <= 100 * few.gpus[device.size] for device in DEVICES)
    carried = Device("small", 0.0013, 0.00005, 14).requests
    assert many.gpus["small"] >= many.tasks_per_s * 1.3 / carried  # no GPU does more than it can


def test_ceilings_come_in_order(figures: Figures) -> None:
    """The first to give way stands first; who asks twice as often meets each at half the listeners."""
    found = ceilings(figures, Habit())
    assert found == sorted(found, key=lambda each: each.tasks_per_s)
    longer = {each.part: each.tasks_per_s for each in ceilings(figures, replace(Habit(), new_s=40.0))}
    assert all(longer[each.part] <= each.tasks_per_s for each in found)


def test_the_page_has_the_tables(figures: Figures) -> None:
    """docs/capacity.md shows what the model says of the run that is kept."""
    page = (ROOT / "docs/capacity.md").read_text()
    assert all(table in page for table in tables(figures, Habit()))
