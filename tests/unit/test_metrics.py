"""The catalogue of metrics: names with units, series that can be counted, and what a meter lets through."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments import metrics
from deployments.metrics import CATALOGUE, CODES, NONE, OTHER, SITES, STAGES, Meter, Metric
from gary.api.v1.problems import GROUPS, TITLES
from gary.engine.stats import STEP_BOUNDS_S
from gary.errors import SOURCE_CODES, SOURCE_UNAVAILABLE_CODES
from gary.tasks.task import UNFINISHED
from tests.unit.metering import Kept

ROOT = Path(__file__).parents[2]
SERIES_MAX = 600  # of one replica of each kind together, a histogram's buckets apart


def by_name(metric: Metric) -> str:
    return metric.name


@pytest.mark.parametrize("metric", CATALOGUE, ids=by_name)
def test_a_name_says_what_it_is_of(metric: Metric) -> None:
    """Counters end in _total, histograms in a unit; a time is in seconds, an amount in bytes."""
    assert re.fullmatch(r"gary_[a-z_]+[a-z]", metric.name)
    assert metric.description
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    if metric.kind == "histogram":
        assert metric.name.endswith(("_seconds", "_ratio"))
    assert bool(metric.boundaries) == (metric.kind == "histogram")
    assert list(metric.boundaries) == sorted(set(metric.boundaries))
    assert not re.search(r"_(ms|milliseconds|s|mb|kb|mib)(_|$)", metric.name)


def test_the_number_of_series_is_known_beforehand() -> None:
    """Every label has a closed set of values, none of them that of a task, a link or a client; no two names are
    alike."""
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE) > 20
    assert all(values for metric in CATALOGUE for values in metric.labels.values())
    assert {name for metric in CATALOGUE for name in metric.labels} == {
        "state",
        "code",
        "outcome",
        "stage",
        "site",
        "le",
        "kind",
    }
    assert sum(metric.series_max for metric in CATALOGUE) <= SERIES_MAX


def test_what_strangers_send_makes_no_series() -> None:
    """A thousand codes and sites that nobody knows are one."""
    meter = Meter(kept := Kept())
    for number in range(1000):
        meter.add(metrics.FETCHES, site=f"site-{number}", code=f"code-{number}")
        meter.add(metrics.TASKS_FINISHED, outcome="failed", code=f"code-{number}")
    assert kept.values == {
        (metrics.FETCHES.name, OTHER, OTHER): 1000.0,
        (metrics.TASKS_FINISHED.name, "failed", OTHER): 1000.0,
    }


def test_a_label_without_room_for_others_is_ours_alone() -> None:
    """An outcome or a label that is not in the catalogue is a bug, and no series."""
    meter = Meter(kept := Kept())
    with pytest.raises(AssertionError):
        meter.add(metrics.TASKS_FINISHED, outcome="lost", code=NONE)
    with pytest.raises(AssertionError):
        meter.add(metrics.TASKS_FINISHED, outcome="failed")
    with pytest.raises(AssertionError):
        meter.set(metrics.TASKS_ACCEPTED, 1)
    assert kept.values == {}


def test_the_sets_are_those_of_the_house() -> None:
    """The codes are among those that are explained to people, all by which a task may fail; stages and step times
    agree with those who have them."""
    assert CODES - {OTHER} <= TITLES.keys()
    assert SOURCE_CODES | SOURCE_UNAVAILABLE_CODES <= CODES
    assert GROUPS["Audio"].keys() | GROUPS["Links"].keys() | GROUPS["The service"].keys() <= CODES
    assert set(STAGES) == {status.value for status in UNFINISHED}
    assert metrics.STEP_BOUNDS_S == STEP_BOUNDS_S
    assert {"youtube", "soundcloud", "direct", OTHER} == SITES


def test_a_running_total_is_counted_once() -> None:
    """By whom it is of: another source begins at 0, and its end takes nothing away."""

    class Source:
        pass

    meter, one, other = Meter(kept := Kept()), Source(), Source()
    for total in (3, 3, 10):
        meter.add_up_to(metrics.ENGINE_FRAMES, total, one)
    meter.add_up_to(metrics.ENGINE_FRAMES, 5, other)
    assert kept.of(metrics.ENGINE_FRAMES) == 15
    del other
    meter.add_up_to(metrics.ENGINE_FRAMES, 11, one)
    assert kept.of(metrics.ENGINE_FRAMES) == 16


def test_ray_takes_every_metric() -> None:
    """Its own rules of names, labels, boundaries and values hold for all of them; no Ray needs to run."""
    meter = Meter()
    tell: dict[str, Callable[..., None]] = {"counter": meter.add, "gauge": meter.set, "histogram": meter.observe}
    for metric in CATALOGUE:
        tell[metric.kind](metric, 1.0, **{name: min(values) for name, values in metric.labels.items()})


def test_one_place_makes_metrics() -> None:
    """No other module imports Ray's or Prometheus's."""
    makers = []
    for path in [*ROOT.glob("deployments/**/*.py"), *ROOT.glob("gary/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if any("prometheus" in name or f"{module}.{name}".endswith("serve.metrics") for name in [module, *names]):
                makers.append(path.name)
    assert makers == ["metrics.py"]
