"""What a soak found, as tables and as one JSON line, and whether it is good."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.soak_clients import Tally
from benchmarks.soak_faults import DEPLOYMENTS
from benchmarks.soak_ledger import Ledger, Size
from benchmarks.soak_processes import Holding, Holdings
from benchmarks.soak_service import SERVER

MEMORY_GROWTH_MAX = 1.02
JUDGED_MINUTES = 10.0  # a shorter run is still warming up where it ends
_ROWS_OF_SIZES = 11


@dataclass(frozen=True)
class Leftovers:
    """What should not be there: names of files and of processes."""

    files: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)


@dataclass
class Findings:
    """One run.

    Attributes:
        faults: how often each was injected.
        overdue: documents in the database that should be gone.
        before, holdings: what each process held after the warm-up, and at the end.
        at_rest, after: what was left when no task was, and when the service had ended.
    """

    minutes: float
    seed: int
    ledger: Ledger
    tally: Tally
    faults: Counter[str]
    sizes: list[Size]
    overdue: int
    before: Holdings
    holdings: Holdings
    at_rest: Leftovers
    after: Leftovers = field(default_factory=Leftovers)

    @property
    def pairs(self) -> list[tuple[Holding, Holding]]:
        """The processes that lived from the end of the warm-up to the end, the largest first."""
        pairs = [(self.before[process], end) for process, end in self.holdings.items() if process in self.before]
        return sorted(pairs, key=lambda pair: -pair[1].memory_mb)

    @property
    def memory_mb(self) -> tuple[float, float]:
        """Of those processes together."""
        return sum(start.memory_mb for start, _ in self.pairs), sum(end.memory_mb for _, end in self.pairs)

    @property
    def memory_growth(self) -> float:
        start_mb, end_mb = self.memory_mb
        return end_mb / start_mb

    @property
    def leaked_files(self) -> int:
        """Temporary files that were left, and files that a process has opened and not closed since the warm-up."""
        opened = sum(max(0, end.files - start.files) for start, end in self.pairs)
        return len(self.at_rest.files) + len(self.after.files) + opened

    @property
    def leaked_processes(self) -> int:
        return len(self.at_rest.processes) + len(self.after.processes)

    @property
    def replaced(self) -> list[str]:
        """Replicas and servers that ended while nothing was broken; Ray's own spare processes come and go."""
        ended = [holding.name for process, holding in self.before.items() if process not in self.holdings]
        return sorted(name for name in ended if name in (*DEPLOYMENTS, SERVER))

    @property
    def holds(self) -> bool:
        unfaithful = self.ledger.lost + self.ledger.doubled + self.tally.wrong_count + len(self.replaced)
        leaked = self.leaked_files + self.leaked_processes + self.overdue
        grown = self.minutes >= JUDGED_MINUTES and self.memory_growth > MEMORY_GROWTH_MAX
        return not (unfaithful or leaked or grown)

    def json_line(self) -> str:
        ledger, start_end_mb = self.ledger, self.memory_mb
        return json.dumps(
            {
                "minutes": self.minutes,
                "seed": self.seed,
                "accepted": ledger.accepted,
                "completed": ledger.ends["completed"],
                "failed": ledger.ends["failed"],
                "cancelled": ledger.ends["cancelled"],
                "lost": ledger.lost,
                "doubled": ledger.doubled,
                "wrong_answers": self.tally.wrong_count,
                "faults": self.faults.total(),
                "memory_growth": round(self.memory_growth, 4),
                "memory_mb": [round(size_mb) for size_mb in start_end_mb],
                "leaked_files": self.leaked_files,
                "leaked_processes": self.leaked_processes,
                "overdue_documents": self.overdue,
                "holds": self.holds,
            }
        )


def print_report(findings: Findings, console: Console) -> None:
    """Tables that can be pasted into a page, what went wrong in words, and the JSON line last."""
    for table in (_tasks(findings), _answers(findings), _sizes(findings), _processes(findings)):
        console.print(table)
    faults = ", ".join(f"{fault} {count}" for fault, count in sorted(findings.faults.items()))
    console.print(f"faults: {faults}\n", highlight=False)
    for what, found in (
        ("wrong answers", findings.tally.wrong),
        ("vanished", findings.ledger.gone),
        ("files left at rest", findings.at_rest.files),
        ("files left after the end", findings.after.files),
        ("processes left at rest", findings.at_rest.processes),
        ("processes left after the end", findings.after.processes),
        ("ended while nothing was broken", findings.replaced),
    ):
        if found:
            console.print(f"{what}: {found}", highlight=False, markup=False)
    print(findings.json_line())


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.MARKDOWN, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _tasks(findings: Findings) -> Table:
    ledger, latencies_s = findings.ledger, findings.tally.latencies_s
    table = _table("tasks", "", "")
    table.add_row("accepted", str(ledger.accepted))
    for end in ("completed", "failed", "cancelled"):
        table.add_row(end, str(ledger.ends[end]))
    for code, count in sorted(ledger.failures.items()):
        table.add_row(f"failed: {code}", str(count))
    table.add_row("begun more than once", str(ledger.late.total()))
    table.add_row("lost", str(ledger.lost))
    if latencies_s:
        table.add_row("seconds to the audio, median", f"{median(latencies_s):.1f}")
        table.add_row("seconds to the audio, longest", f"{max(latencies_s):.1f}")
    return table


def _answers(findings: Findings) -> Table:
    """Rows are routes, columns statuses."""
    answers = findings.tally.answers
    statuses = sorted({status for _, status in answers})
    table = _table("answers", "route", *(str(status or "none") for status in statuses))
    for route in sorted({route for route, _ in answers}):
        table.add_row(route, *(str(answers[route, status] or "") for status in statuses))
    return table


def _sizes(findings: Findings) -> Table:
    table = _table("database", "s", "tasks", "audio files", "chunks", "keys", "MB on disk", "tasks ended by then")
    step = max(1, len(findings.sizes) // (_ROWS_OF_SIZES - 1))
    for size in [*findings.sizes[:-1:step], *findings.sizes[-1:]]:
        figures = (size.tasks, size.files, size.chunks, size.keys)
        table.add_row(f"{size.at_s:.0f}", *map(str, figures), f"{size.disk_mb:.0f}", str(size.ended))
    return table


def _processes(findings: Findings) -> Table:
    table = _table("processes at rest", "process", "MB", "then MB", "growth", "shared MB", "descriptors", "files")
    for start, end in findings.pairs:
        table.add_row(
            end.name,
            f"{start.memory_mb:.1f}",
            f"{end.memory_mb:.1f}",
            f"{end.memory_mb / start.memory_mb:.3f}" if start.memory_mb else "",
            _both(round(start.shared_mb), round(end.shared_mb)),
            _both(start.descriptors, end.descriptors),
            _both(start.files, end.files),
        )
    start_mb, end_mb = findings.memory_mb
    table.add_row("all", f"{start_mb:.1f}", f"{end_mb:.1f}", f"{findings.memory_growth:.3f}", "", "", "")
    return table


def _both(start: int, end: int) -> str:
    return f"{start}" if start == end else f"{start} → {end}"
