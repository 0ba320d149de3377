"""What so many listeners need, and which part gives way first: `scripts/bench capacity`.

Reads the figures of a run of `scripts/bench scale` and prints, as Markdown: how near the model of `capacity_model.py`
comes to them, what `capacity_needs.py` makes of them for other numbers of listeners, and what is full at which load.
docs/capacity.md has the same tables, and a test sees to it. One JSON line last.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.capacity_model import checks, knees
from benchmarks.capacity_needs import DEVICES, LISTENERS, MACHINE_CORES, MACHINE_SHARE, Habit, Need, ceilings, need
from benchmarks.scale_figures import Figures, read_figures

FIGURES = Path(__file__).with_name("scale.json")


def main() -> None:
    """Prints the tables and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("figures", nargs="?", type=Path, default=FIGURES, help="of a run of scripts/bench scale")
    options = parser.parse_args()
    figures, habit = read_figures(options.figures), Habit()
    for table in tables(figures, habit):
        print(f"{table}\n")
    asked = [asdict(need(figures, habit, listeners)) for listeners in LISTENERS]
    print(json.dumps({"needs": asked, "habit": asdict(habit), "devices": [asdict(each) for each in DEVICES]}))


def tables(figures: Figures, habit: Habit) -> list[str]:
    """In the order in which they are read."""
    return [checked(figures), found_knees(figures), needs(figures, habit), gives_way(figures, habit)]


def checked(figures: Figures) -> str:
    """Every load, as measured and as predicted."""
    head = ("engine, replicas", "offered /s", "p50 s", "model", "off", "p95 s", "finished /s", "model", "off", "")
    rows = [
        (
            f"{each.series.engine}, {each.series.replicas}",
            f"{each.measured.offered_per_s:.2f}",
            f"{each.measured.p50_s:.2f}",
            f"{each.predicted.p50_s:.2f}",
            f"{each.p50_error:+.0%}",
            f"{each.measured.p95_s:.2f}",
            f"{each.measured.finished_per_s:.2f}",
            f"{each.predicted.finished_per_s:.2f}",
            f"{each.finished_error:+.0%}",
            "" if each.is_below_knee else "beyond the knee",
        )
        for each in checks(figures)
    ]
    return _table(head, rows)


def found_knees(figures: Figures) -> str:
    """Of every series."""
    all_checked, rows = checks(figures), []
    for series in figures.series:
        measured, foreseen = knees(series, all_checked)
        shown = [f"{each:.2f}" if each is not None else "not within these loads" for each in (measured, foreseen)]
        off = f"{foreseen / measured - 1:+.0%}" if measured and foreseen else ""
        rows.append((f"{series.engine}, {series.replicas}", *shown, off))
    return _table(("engine, replicas", "knee, tasks/s", "model", "off"), rows)


def needs(figures: Figures, habit: Habit) -> str:
    """One column for each number of listeners."""
    columns = [need(figures, habit, listeners) for listeners in LISTENERS]
    told: dict[str, Callable[[Need], str]] = {
        "tasks/s": lambda each: f"{each.tasks_per_s:.3g}",
        **{f"GPUs, if all is {device.size}": partial(_gpus, size=device.size) for device in DEVICES},
        "median task of small, s": lambda each: f"{each.task_s:.1f}",
        "tasks in the house": lambda each: f"{each.unfinished:,.1f}",
        **{f"cores: {part}": partial(_cores, part=part) for part in columns[0].cores},
        f"machines of {MACHINE_CORES} cores, {MACHINE_SHARE:.0%} full, without the database's": (
            lambda each: f"{each.machines:,}"
        ),
        "database operations/s": lambda each: f"{each.operations_per_s:,.0f}",
        "into the database, MB/s": lambda each: f"{each.database_in_bytes_per_s / 1e6:,.1f}",
        "kept for a week, TB": lambda each: f"{each.kept_bytes / 1e12:,.2f}",
        "out to listeners, Mbit/s": lambda each: f"{8 * each.out_bytes_per_s / 1e6:,.1f}",
        "in from sources, Mbit/s": lambda each: f"{8 * each.in_bytes_per_s / 1e6:,.1f}",
        "Ray's object store, MB": lambda each: f"{each.object_store_bytes / 1e6:,.1f}",
    }
    rows = [(name, *map(show, columns)) for name, show in told.items()]
    return _table(("listeners", *(f"{each.listeners:,}" for each in columns)), rows)


def gives_way(figures: Figures, habit: Habit) -> str:
    """The parts, the first to give way first."""
    rows = [
        (each.part, f"{each.tasks_per_s:.1f}", f"{each.tasks_per_s * habit.period_s:,.0f}", each.then)
        for each in ceilings(figures, habit)
    ]
    return _table(("what is full", "at tasks/s", "listeners", "then"), rows)


def _gpus(each: Need, size: str) -> str:
    return f"{each.gpus[size]:,}"


def _cores(each: Need, part: str) -> str:
    return f"{each.cores[part]:,.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
