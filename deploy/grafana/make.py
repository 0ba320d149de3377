"""Writes `dashboard.json` beside this file: what Grafana shows of the service. Run from the repository's directory:

    .venv/bin/python -m deploy.grafana.make

Every panel names its metrics by `deployments.metrics`, so none is asked for that is not there; and a
test sees to it that each that is there is in some panel.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments import metrics
from deployments.metrics import Metric

PATH = Path(__file__).with_name("dashboard.json")
_DATASOURCE = {"type": "prometheus", "uid": "prometheus"}  # as provisioning/datasources names it
_WINDOW = "$__rate_interval"
_COLUMNS, _HEIGHT = 24, 8


@dataclass(frozen=True)
class Line:
    """What is drawn, and how each series of it is called."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """Attributes:
    unit: as Grafana calls it: s, Bps, bytes, short, ops, percentunit.
    about: what a reader should know; shown beside the title.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    about: str = ""
    stacked: bool = False


def rate(metric: Metric, *by: str) -> str:
    """How fast a counter rises a second, of all replicas together."""
    return f"sum{_by(by)} (rate({metric.exported}[{_WINDOW}]))"


def total(metric: Metric, *by: str) -> str:
    """A gauge of which each replica has its own part."""
    return f"sum{_by(by)} ({metric.exported})"


def seen(metric: Metric, *by: str) -> str:
    """A gauge of which every replica tells the same."""
    return f"max{_by(by)} ({metric.exported})"


def quantile(share: float, metric: Metric, *by: str) -> str:
    """Of a histogram, or of a counter by `le`."""
    buckets = metric.exported + ("_bucket" if metric.kind == "histogram" else "")
    return f"histogram_quantile({share:g}, sum{_by(('le', *by))} (rate({buckets}[{_WINDOW}])))"


def mean(summed: Metric, counted: str) -> str:
    """`summed` for each of what `counted` counts, by deployment."""
    return f"{rate(summed, 'deployment')} / {counted}"


def _by(labels: Sequence[str]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""


_STEPS = f'sum by (deployment) (rate({metrics.ENGINE_STEPS.exported}{{le="+Inf"}}[{_WINDOW}]))'
_FAILED = f'sum by (code) (rate({metrics.TASKS_FINISHED.exported}{{outcome="failed"}}[{_WINDOW}]))'

ROWS: dict[str, tuple[Panel, ...]] = {
    "The house": (
        Panel("Tasks in the house", "short", (Line(seen(metrics.QUEUE_TASKS, "state"), "{{state}}"),)),
        Panel("Longest wait", "s", (Line(seen(metrics.QUEUE_OLDEST_WAIT), "oldest waiting task"),)),
        Panel(
            "Tasks a minute",
            "short",
            (
                Line(f"60 * {rate(metrics.TASKS_ACCEPTED)}", "accepted"),
                Line(f"60 * {rate(metrics.TASKS_FINISHED, 'outcome')}", "{{outcome}}"),
            ),
        ),
        Panel(
            "The database answers",
            "short",
            (Line(f"min ({metrics.DATABASE_UP.exported})", "1: all conductors hear it"),),
        ),
    ),
    "Tasks": (
        Panel(
            "From the job's coming to its completion",
            "s",
            tuple(Line(quantile(share, metrics.TASK), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)),
        ),
        Panel(
            "Each stage, p95",
            "s",
            (Line(quantile(0.95, metrics.TASK_STAGE, "stage"), "{{stage}}"),),
            "Stages that came to their end; queued is each stay in the queue.",
        ),
        Panel(
            "Failures a minute",
            "short",
            (Line(f"60 * {_FAILED}", "{{code}}"),),
            "Codes of a link or a file are the client's; those of the service are ours: /docs/errors explains each.",
        ),
        Panel(
            "Attempts, retries, takeovers a minute",
            "short",
            (
                Line(f"60 * {rate(metrics.TASK_ATTEMPTS)}", "attempts"),
                Line(f"60 * {rate(metrics.TASK_RETRIES, 'code')}", "retried: {{code}}"),
                Line(f"60 * {rate(metrics.TASK_TAKEOVERS)}", "taken over"),
            ),
            "A takeover is a task whose worker was not heard of for a whole lease.",
        ),
    ),
    "MusicGen": (
        Panel(
            "Seconds of music made in a second",
            "short",
            (Line(rate(metrics.ENGINE_MUSIC, "deployment"), "{{deployment}}"),),
        ),
        Panel(
            "Real-time factor of a request",
            "short",
            (
                Line(quantile(0.5, metrics.REALTIME_FACTOR, "deployment"), "{{deployment}} p50"),
                Line(quantile(0.1, metrics.REALTIME_FACTOR, "deployment"), "{{deployment}} p10"),
            ),
            "Below 1 a live listener waits. All takes of a request count, and so does its wait for a slot.",
        ),
        Panel("Frames a second", "short", (Line(rate(metrics.ENGINE_FRAMES, "deployment"), "{{deployment}}"),)),
        Panel(
            "A step",
            "s",
            (
                Line(mean(metrics.ENGINE_STEP_TIME, _STEPS), "{{deployment}} mean"),
                Line(quantile(0.99, metrics.ENGINE_STEPS, "deployment"), "{{deployment}} p99"),
            ),
        ),
        Panel(
            "Slots",
            "short",
            (
                Line(total(metrics.ENGINE_SLOTS, "deployment"), "{{deployment}} there are"),
                Line(total(metrics.ENGINE_SLOTS_USED, "deployment"), "{{deployment}} in use"),
                Line(total(metrics.ENGINE_WAITING, "deployment"), "{{deployment}} waited for"),
                Line(mean(metrics.ENGINE_SLOT_STEPS, _STEPS), "{{deployment}} drawing in a step, mean"),
            ),
        ),
        Panel(
            "Cache of keys and values",
            "bytes",
            (
                Line(total(metrics.ENGINE_KV, "deployment"), "{{deployment}} there is"),
                Line(total(metrics.ENGINE_KV_USED, "deployment"), "{{deployment}} in use"),
            ),
        ),
    ),
    "Links": (
        Panel(
            "Downloads a minute, by how they ended",
            "short",
            (Line(f"60 * {rate(metrics.FETCHES, 'site', 'code')}", "{{site}}: {{code}}"),),
            stacked=True,
        ),
        Panel("A download, p95", "s", (Line(quantile(0.95, metrics.FETCH, "site"), "{{site}}"),)),
        Panel("Downloaded", "Bps", (Line(rate(metrics.FETCHED), "bytes a second"),)),
    ),
    "Audio": (
        Panel("Listeners", "short", (Line(total(metrics.LISTENERS, "kind"), "{{kind}}"),)),
        Panel("Served", "Bps", (Line(rate(metrics.AUDIO_SERVED, "kind"), "{{kind}}"),)),
        Panel("Stored", "Bps", (Line(rate(metrics.AUDIO_STORED), "bytes a second"),)),
    ),
}


def dashboard() -> dict[str, Any]:
    """As Grafana takes it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": [], **_place(0, y, _COLUMNS, 1)})
        y += 1
        columns = 4 if len(row) == 4 else 3
        width = _COLUMNS // columns
        for index, panel in enumerate(row):
            panels.append(
                _shown(panel) | _place(index % columns * width, y + index // columns * _HEIGHT, width, _HEIGHT)
            )
        y += -(-len(row) // columns) * _HEIGHT
    for number, shown in enumerate(panels, start=1):
        shown["id"] = number
    return {
        "title": "gary",
        "uid": "gary",
        "tags": ["gary"],
        "editable": False,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "schemaVersion": 41,
        "panels": panels,
    }


def _shown(panel: Panel) -> dict[str, Any]:
    custom = {"fillOpacity": 20 if panel.stacked else 0, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": line.expression,
                "legendFormat": line.legend,
            }
            for index, line in enumerate(panel.lines)
        ],
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"gridPos": {"x": x, "y": y, "w": width, "h": height}}


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text())
