"""How many of torch's threads a thread of ours computes with, whatever the others do."""

from __future__ import annotations

import torch


def compute_with(threads: int) -> None:
    """Of the calling thread alone, for good.

    The first time that torch looks, in each thread, it takes what was set last in any thread of the process, and
    forgets what was set in this one before. So it has to look first.
    """
    torch.get_num_threads()
    torch.set_num_threads(threads)
