"""Attention of single positions over their rows' past, on a CPU: what decoding spends its time on beside the weights.

It is bound by memory, so it reads keys and values once, in the two bytes of bf16 where they are kept so, all rows of a
step in one call. torch has no such product: its own attention takes 8 times as long over bf16 as over fp32, and one
call for each row over fp32 reached 23 of the 30 GB/s that this reaches over half the bytes.

Compiled by numba (kept beside this file, made by scripts/install). Its threads are torch's own: both find the one
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
import torch  # before numba starts its threads
from numba import config, get_num_threads, njit, prange, set_num_threads, types
from numba.extending import overload

config.THREADING_LAYER = "omp"  # type: ignore[attr-defined]

_log = logging.getLogger(__name__)
Indices = np.ndarray[Any, np.dtype[np.int64]]

_LOG2_E = np.float32(1.4426950408889634)
# 2 ** x on 0..1 by a polynomial of degree 5, largest relative error 2e-7; libm's exp is not vectorised.
_EXP2 = tuple(map(np.float32, (1.8775767e-3, 8.9893397e-3, 5.5826318e-2, 2.4015361e-1, 6.9315308e-1, 9.9999994e-1)))


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
    """Whether numba's OpenMP threads can be had: they need the system's libgomp beside torch's (Debian: libgomp1)."""
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
    _write(_bits(qkv), _bits(keys), _bits(values), singles.at, singles.rows, singles.ends)


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
    threads = min(torch.get_num_threads(), config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    if get_num_threads() != threads:
        set_num_threads(threads)
    places: Any = (singles.at, singles.rows, singles.starts, singles.ends)
    _compiled_attend(_bits(queries), _bits(keys), _bits(values), *places, out.numpy())  # type: ignore[call-arg]


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


def _bits(x: torch.Tensor) -> np.ndarray[Any, Any]:
    """The tensor's memory; numpy has no bf16, so as its 16 bits."""
    bits: np.ndarray[Any, Any] = (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()
    return bits


def _widened(value: Any) -> Any:
    """One element as fp32: bf16 is fp32 without its lower half."""
    raise NotImplementedError("exists compiled only")


@overload(_widened, inline="always")
def _widened_by_type(value: Any) -> Any:
    def of_bf16(value: Any) -> Any:
        return np.uint32(np.uint32(np.uint16(value)) << np.uint32(16)).view(np.float32)

    def of_fp32(value: Any) -> Any:
        return value

    return of_bf16 if isinstance(value, types.Integer) else of_fp32


@njit(fastmath=True, inline="always")
def _exp2(x: Any) -> Any:
    x = max(x, np.float32(-126))
    whole = np.int32(np.floor(x))
    part = x - np.float32(whole)
    made = _EXP2[0]
    for factor in _EXP2[1:]:
        made = made * part + factor
    return made * np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(nogil=True, cache=True)
def _write(qkv: Any, keys: Any, values: Any, at: Any, rows: Any, ends: Any) -> None:
    for index in range(at.shape[0]):
        fed, position = qkv[at[index]], ends[index] - 1
        keys[rows[index], :, position] = fed[1]
        values[rows[index], :, position] = fed[2]


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def _compiled_attend(  # noqa: PLR0913, PLR0917  numba takes arrays, not dataclasses
    queries: Any, keys: Any, values: Any, at: Any, rows: Any, starts: Any, ends: Any, out: Any
) -> None:
    """Heads are shared out among the threads, so each has the same to do however ragged the rows are."""
    heads, width = queries.shape[1], queries.shape[2]
    scale = _LOG2_E / np.float32(np.sqrt(width))
    for head in prange(heads):
        weights = np.empty(keys.shape[2], np.float32)  # [S]
        query = np.empty(width, np.float32)
        mean = np.empty(width, np.float32)
        for index in range(at.shape[0]):
            start, length = starts[index], ends[index] - starts[index]
            past_keys = keys[rows[index], head, start:]  # [S - start, D / H]
            past_values = values[rows[index], head, start:]
            for d in range(width):
                query[d] = _widened(queries[at[index], head, d]) * scale
                mean[d] = 0
            for s in range(length):
                dot = np.float32(0)
                for d in range(width):
                    dot += query[d] * _widened(past_keys[s, d])
                weights[s] = dot
            highest = weights[0]
            for s in range(length):
                highest = max(highest, weights[s])
            total = np.float32(0)
            for s in range(length):
                weight = _exp2(weights[s] - highest)
                weights[s] = weight
                total += weight
            for s in range(length):
                weight = weights[s]
                for d in range(width):
                    mean[d] += weight * _widened(past_values[s, d])
            for d in range(width):
                out[at[index], head, d] = mean[d] / total
