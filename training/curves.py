"""Pictures of the curves of a run: `NAME.png` beside each `NAME.jsonl`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from training.run import Run, log

_BESIDE = ("step", "elapsed_s")  # what a figure is drawn over


def draw_curves(run: Run) -> list[Path]:
    """Draws every curve of a run; the pictures. A machine without matplotlib keeps the numbers alone."""
    if importlib.util.find_spec("matplotlib") is None:
        log.info("no matplotlib here: the curves stay numbers")
        return []
    return [_draw(curve) for curve in sorted(run.directory.glob("*.jsonl")) if curve.stat().st_size]


def _draw(curve: Path) -> Path:
    from matplotlib.figure import Figure

    points = [json.loads(line) for line in curve.read_text().splitlines()]
    names = [name for name in points[0] if name not in _BESIDE]
    figure = Figure(figsize=(8, 2 * len(names)), layout="constrained")
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(len(names), 1, place)
        axes.plot([point["step"] for point in points], [point[name] for point in points], linewidth=1)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    figure.supxlabel("step")
    picture = curve.with_suffix(".png")
    figure.savefig(picture, dpi=80)
    return picture
