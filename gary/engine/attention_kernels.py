"""The compiled half of `gary.engine.attention`; importing it needs numba, and its first call compiles.

bf16 comes as its 16 bits, since numpy has no such type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import config, get_num_threads, njit, prange, set_num_threads, types
from numba.extending import overload

__all__ = ["attend", "config", "get_num_threads", "set_num_threads", "write"]

config.THREADING_LAYER = "omp"  # type: ignore[attr-defined]

_LOG2_E = np.float32(1.4426950408889634)
# 2 ** x on 0..1 by a polynomial of degree 5, largest relative error 2e-7; libm's exp is not vectorised.
_EXP2 = tuple(map(np.float32, (1.8775767e-3, 8.9893397e-3, 5.5826318e-2, 2.4015361e-1, 6.9315308e-1, 9.9999994e-1)))


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
def write(qkv: Any, keys: Any, values: Any, at: Any, rows: Any, ends: Any) -> None:
    """See `gary.engine.attention.write`."""
    for index in range(at.shape[0]):
        fed, position = qkv[at[index]], ends[index] - 1
        keys[rows[index], :, position] = fed[1]
        values[rows[index], :, position] = fed[2]


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def attend(  # noqa: PLR0913, PLR0917  numba takes arrays, not dataclasses
    queries: Any, keys: Any, values: Any, at: Any, rows: Any, starts: Any, ends: Any, out: Any
) -> None:
    """See `gary.engine.attention.attend`.

    Heads are shared out among the threads, so that each has the same to do however ragged the rows are.
    """
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
