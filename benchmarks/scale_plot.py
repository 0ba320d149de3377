"""The figures of `scripts/bench scale` as one picture, on an opaque ground: light and dark pages show it alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.scale_figures import Figures, Series, digest

_GROUND, _INK = "#f7f7f4", "#26262b"
_COLOURS = {1: "#0b6e99", 2: "#c4541b", 4: "#4f7a28"}
_STYLE: Any = {  # matplotlib's stubs would have each key's literal type
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    "axes.facecolor": _GROUND,
    "font.size": 9,
}
_TITLES = {
    "tiny": "computed, all on the same {cores} cores",
    "paced": "the engine a timer, no cores",
}


def plot(figures: Figures, path: Path) -> None:
    """Writes a PNG: above task times, below tasks finished, by offered load; one column an engine."""
    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), sharex="col", facecolor=_GROUND, layout="constrained")
        for (kind, title), (above, below) in zip(_TITLES.items(), axes.T, strict=True):
            _times(above, [each for each in figures.series if each.engine == kind])
            _finished(below, [each for each in figures.series if each.engine == kind])
            above.set_title(f"{kind}: {title.format(cores=figures.conditions['cores'])}")
        figure.savefig(path, dpi=110, metadata={"Description": digest(figures)})
        pyplot.close(figure)


def _times(axes: Axes, series: list[Series]) -> None:
    for each in series:
        points = [measured.point for measured in each.points]
        offered, colour = [point.offered_per_s for point in points], _COLOURS.get(each.replicas, _INK)
        axes.plot(offered, [point.p50_s for point in points], "o-", color=colour, label=f"{each.replicas}, p50")
        axes.plot(offered, [point.p95_s for point in points], "s--", color=colour, label=f"{each.replicas}, p95")
        if each.knee_per_s is not None:
            axes.axvline(each.knee_per_s, color=colour, linestyle=":", label=f"{each.replicas}, knee")
    axes.set_ylabel("task time (s)")
    axes.margins(y=0.7)  # above the curves is the legend's place
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(title="replicas", fontsize=7, framealpha=0.6, ncols=max(1, len(series)), loc="upper center")


def _finished(axes: Axes, series: list[Series]) -> None:
    most = max((measured.point.offered_per_s for each in series for measured in each.points), default=1.0)
    axes.plot([0, most], [0, most], color=_INK, linewidth=0.8, linestyle=":", label="offered")
    for each in series:
        points = [measured.point for measured in each.points]
        colour = _COLOURS.get(each.replicas, _INK)
        offered, finished = [each.offered_per_s for each in points], [each.finished_per_s for each in points]
        axes.plot(offered, finished, "o-", color=colour, label=f"{each.replicas}")
    axes.set_xlabel("offered load (tasks/s)")
    axes.set_ylabel("finished (tasks/s)")
    axes.grid(alpha=0.3)
    axes.legend(title="replicas", fontsize=8, framealpha=0.6)
