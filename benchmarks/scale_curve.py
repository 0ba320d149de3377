"""What a load met, as figures, and where the knee of such figures lies. Values in, values out.

**The rule of the knee.** A load is carried where 95 % of its tasks take less than twice the median time of a task that
has the house to itself, and tasks are finished at 0.95 of the offered rate or more. The knee is the offered load
at which that ends: between the last load that is carried and the first that is not, on straight lines between their
figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

SLOWER_MAX = 2.0
FINISHED_MIN = 0.95


@dataclass(frozen=True)
class Point:
    """One load.

    Attributes:
        offered_per_s: tasks that arrived, over the window in which they did.
        finished_per_s: tasks that were taken, over the window and what the last of them was late: what it ended
            later than two lone tasks' time after the window, which is the rule's own allowance.
        p50_s, p95_s, p99_s: of the tasks that were taken, from scheduled arrival to completed.
        refused: tasks answered 429.
    """

    offered_per_s: float
    window_s: float
    tasks: int
    finished_per_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    refused: int = 0

    def rounded(self) -> Point:
        """The same, to a tenth of a millisecond."""
        return Point(**{name: round(value, 4) for name, value in asdict(self).items()})


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all are not above (nearest rank). `values` is not empty."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


def point(at_s: Sequence[float], took_s: Sequence[float | None], window_s: float, alone_s: float) -> Point:
    """Figures of a load.

    Args:
        at_s: scheduled arrivals.
        took_s: each task's time; None where it was refused.
        alone_s: median time of a task that has the house to itself.
    """
    taken = [time_s for time_s in took_s if time_s is not None]
    ends_s = [arrival_s + time_s for arrival_s, time_s in zip(at_s, took_s, strict=True) if time_s is not None]
    late_s = max(0.0, max(ends_s) - window_s - SLOWER_MAX * alone_s)
    return Point(
        offered_per_s=len(at_s) / window_s,
        window_s=window_s,
        tasks=len(at_s),
        finished_per_s=len(taken) / (window_s + late_s),
        p50_s=percentile(taken, 0.5),
        p95_s=percentile(taken, 0.95),
        p99_s=percentile(taken, 0.99),
        refused=len(at_s) - len(taken),
    )


def knee_per_s(points: Sequence[Point], alone_s: float) -> float | None:
    """The load at which the rule ends, in tasks a second; None where the loads do not show it, all or none carried.

    Args:
        points: by rising load.
    """
    failing = next((index for index, each in enumerate(points) if not is_carried(each, alone_s)), None)
    if not failing:
        return None
    last, first = points[failing - 1], points[failing]
    halves = zip(_excess(last, alone_s), _excess(first, alone_s), strict=True)
    shares = [before / (before - after) for before, after in halves if after > 0]
    return last.offered_per_s + min(shares) * (first.offered_per_s - last.offered_per_s)


def is_carried(each: Point, alone_s: float) -> bool:
    """Whether a load keeps to the rule."""
    return max(_excess(each, alone_s)) <= 0


def _excess(each: Point, alone_s: float) -> tuple[float, float]:
    """By how much a load is beyond each half of the rule; at most 0 where it is within."""
    return each.p95_s / alone_s - SLOWER_MAX, FINISHED_MIN - each.finished_per_s / each.offered_per_s
