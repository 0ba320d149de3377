"""Attention of single positions over their rows' past, on a CPU: what decoding spends its time on beside the weights.

It is bound by memory, so it reads keys and values once, in the two bytes of bf16 where they are kept so, all rows of a
step in one call. torch has no such product: its own attention takes 8 times as long over bf16 as over fp32, and one
call for each row over fp32 reached 23 of the 30 GB/s that this reaches over half the bytes.

Compiled by numba (kept beside its file, made by scripts/install). Its threads are torch's own: both find the one
OpenMP library that torch has loaded, so nobody waits for another pool's spinning threads. Hence torch comes first.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_log = logging.getLogger(__name__)
Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Singles:
    """Positions that attend alone, n of the N of a pass: each to a stretch of one row.

    Attributes:
        at: [n] which of the N.
        rows: [n] of the keys and values.
        starts, ends: [n] of the stretch.
    """

    at: Indices
    rows: Indices
    starts: Indices
    ends: Indices

    @classmethod
    def of(cls, places: Iterable[tuple[int, int, int, int]]) -> Singles | None:
        """From (at, row, start, end) of each; None for none."""
        columns = np.array(list(places), np.int64).reshape(-1, 4).T.copy()
        return cls(*columns) if columns.size else None


@functools.cache
def available() -> bool:
    """Whether numba is here, and its OpenMP threads: they need the system's libgomp beside torch's."""
    try:
        importlib.import_module("numba.np.ufunc.omppool")
    except ImportError as error:
        _log.warning("decoding is slower than it could be: %s; on Debian: apt-get install libgomp1", error)
        return False
    return True


def write(qkv: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, singles: Singles) -> None:
    """Puts keys and values into the cache, each at the end of its stretch.

    Args:
        qkv: [N, 3, H, D / H], bf16 or fp32: queries, keys, values of the positions fed.
        keys, values: [R, H, S, D / H], of the same type.
    """
    _kernels().write(_bits(qkv), _bits(keys), _bits(values), singles.at, singles.rows, singles.ends)


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, singles: Singles, out: torch.Tensor
) -> None:
    """Attends from single positions.

    A position's result is the same bit for bit whoever else is fed, and on any number of threads.

    Args:
        queries: [N, H, D / H], bf16 or fp32.
        keys, values: [R, H, S, D / H], of the same type.
        out: [N, H, D / H] fp32; written at the singles' `at`.
    """
    kernels = _kernels()
    threads = min(torch.get_num_threads(), kernels.config.NUMBA_NUM_THREADS)
    if kernels.get_num_threads() != threads:
        kernels.set_num_threads(threads)
    places = (singles.at, singles.rows, singles.starts, singles.ends)
    kernels.attend(_bits(queries), _bits(keys), _bits(values), *places, out.numpy())


def warm_up() -> None:
    """Compiles what the decoder calls, or finds it compiled: both types, queries strided and contiguous."""
    for dtype in (torch.bfloat16, torch.float32):
        cache = torch.zeros(2, 2, 2, 8, dtype=dtype)
        singles = Singles.of([(0, 0, 0, 1)])
        assert singles is not None
        fed = torch.zeros(2, 3, 2, 8, dtype=dtype)
        write(fed, cache, cache, singles)
        for queries in (fed[:, 0], fed[:, 0].contiguous()):
            attend(queries, cache, cache, singles, torch.empty(2, 2, 8))


@functools.cache
def _kernels() -> Any:
    """Imported at the first use: a machine that decodes on a GPU needs no numba."""
    return importlib.import_module("gary.engine.attention_kernels")


def _bits(x: torch.Tensor) -> np.ndarray[Any, Any]:
    """The tensor's memory; numpy has no bf16, so as its 16 bits."""
    bits: np.ndarray[Any, Any] = (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()
    return bits
