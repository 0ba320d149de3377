"""Waiting for a condition, by asking again and again."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], timeout_s: float) -> T:
    """What `condition` returned last: something true, or, when the time was up, not."""
    deadline_s = monotonic() + timeout_s
    while not (found := condition()) and monotonic() < deadline_s:
        sleep(0.05)
    return found


def must(condition: Callable[[], T], what: str, timeout_s: float = 90.0) -> T:
    """What `condition` returned, something true; an AssertionError that names `what` when the time is up."""
    found = until(condition, timeout_s)
    assert found, f"{what}: not within {timeout_s:g} s"
    return found
