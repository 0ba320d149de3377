"""What the codec hears: short stretches of loops, made by worker processes while the device works.

Batch n holds loops n·L to n·L + L - 1 and nothing else decides it: so a run may stop and go on anywhere.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.drums import Wave
from training.grid import FRAME_SAMPLES
from training.loops import make_loop
from training.run import log

PER_LOOP = 4  # stretches of one loop in a batch: a loop takes longer to make than to cut

_PREFETCHED = 3  # batches that a worker has ready


class _Stretches(Dataset[Wave]):
    def __init__(self, length_samples: int) -> None:
        self._length_samples = length_samples

    def __getitem__(self, number: int) -> Wave:
        """Stretches of the loop of that number, [PER_LOOP, N]: half begin on a frame of its grid, half anywhere."""
        loop = make_loop(number)
        starts = np.random.default_rng([3, number]).integers(len(loop.samples), size=PER_LOOP)
        starts[::2] -= starts[::2] % FRAME_SAMPLES
        return np.stack([loop.played(self._length_samples, int(start)) for start in starts])


class Crops:
    """Batches by their step.

    Args:
        batch: stretches in one; a multiple of `PER_LOOP`.
        workers: processes that make loops; 0 makes them here.
    """

    def __init__(self, batch: int, length_samples: int, workers: int, device: str) -> None:
        if batch % PER_LOOP:
            raise ValueError(f"a batch is a multiple of {PER_LOOP}, not {batch}")
        self._loops, self._length_samples = batch // PER_LOOP, length_samples
        self._workers, self._device = workers, device
        self._next = -1
        self._stream: Iterator[Tensor] = iter(())

    def __call__(self, step: int, progress: float = 0.0) -> Tensor:
        """[B, 1, N] float32 on the device."""
        if step != self._next:
            self._stream = iter(self._loader(step))
        self._next = step + 1
        return next(self._stream).flatten(0, 1)[:, None].to(self._device, non_blocking=True)

    def _loader(self, step: int) -> DataLoader[Wave]:
        workers = self._affordable_workers()
        return DataLoader(
            _Stretches(self._length_samples),
            batch_size=self._loops,
            sampler=range(step * self._loops, sys.maxsize),
            num_workers=workers,
            prefetch_factor=_PREFETCHED if workers else None,
            pin_memory=torch.device(self._device).type == "cuda",
        )

    def _affordable_workers(self) -> int:
        """As many as shared memory has room for: batches wait in it, and a container may have 64 MB of it."""
        if not self._workers:
            return 0
        batch_bytes = self._loops * PER_LOOP * self._length_samples * 4
        room = shutil.disk_usage("/dev/shm").free // 2  # noqa: S108 - looked at, not written to
        affordable = min(self._workers, room // (batch_bytes * (_PREFETCHED + 1)))
        if affordable < self._workers:
            log.info("crops: shared memory has room for %d workers of %d", affordable, self._workers)
        return affordable
