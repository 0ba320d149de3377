"""Loading beside those who decode: work that gives way to every other thread of the process. It knows no model.

Python's lock changes hands every 5 ms, and torch's operators, big reads and digests let go of it; what holds up an
engine that decodes is cores. So the work runs in a thread of its own at a lower priority, with one of torch's threads,
and what threads it starts inherit the priority. Not at the lowest: one that holds Python's lock and gets no core would
hold up everybody.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gary.engine.threads import compute_with

T = TypeVar("T")

_NICER = 5  # about a third of the weight of those who decode


def gently(work: Callable[[], T]) -> T:
    """Runs `work` in such a thread and waits for it; what it returns or raises."""
    with ThreadPoolExecutor(1, "load", initializer=_give_way) as thread:
        return thread.submit(work).result()


def _give_way() -> None:
    """Of this thread alone: on Linux priority is a thread's, not a process's, and is inherited by those it starts."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + _NICER)
    compute_with(1)
