"""A sink that keeps what it is told, in the place of Ray's metrics."""

from __future__ import annotations

from deployments.metrics import Metric


class Kept:
    """Adds counters up, keeps a gauge's last value and all that a histogram observed; by name and label values."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}
        self.observed: dict[tuple[str, ...], list[float]] = {}

    def __call__(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        key = (metric.name, *(labels[name] for name in metric.labels))
        if metric.kind == "histogram":
            self.observed.setdefault(key, []).append(value)
        else:
            before = self.values.get(key, 0.0) if metric.kind == "counter" else 0.0
            self.values[key] = before + value

    def of(self, metric: Metric, *labels: str) -> float:
        """0 for what was never told."""
        return self.values.get((metric.name, *labels), 0.0)
