"""Each thread of ours computes with as many of torch's threads as it was given, whatever others are given later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gary.engine.threads import compute_with


@pytest.fixture
def thread() -> Iterator[Callable[[Callable[[], int | None]], int | None]]:
    """Runs what it is given in one thread that torch has never seen."""
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1) as one:
        yield lambda work: one.submit(work).result()
    torch.set_num_threads(before)


def test_what_is_set_elsewhere_later_changes_nothing(thread: Callable[[Callable[[], int | None]], int | None]) -> None:
    thread(lambda: compute_with(1))
    torch.set_num_threads(2)
    assert thread(torch.get_num_threads) == 1
