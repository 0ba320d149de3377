"""The limiter: nothing below the knee, nothing beyond full scale, and no order changed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gary.audio.clip import Samples
from gary.audio.limiter import KNEE_DB, limit

KNEE = np.float32(10 ** (KNEE_DB / 20))
any_samples = npst.arrays(
    np.float32, st.tuples(st.integers(1, 2), st.integers(0, 50)), elements=st.floats(-8, 8, width=32)
)


@given(any_samples)
def test_what_is_below_the_knee_is_the_very_same(samples: Samples) -> None:
    """Beside louder neighbours too; what is above comes out lower, never beyond 1, with its own sign."""
    limited = limit(samples)
    quiet = np.abs(samples) <= KNEE
    assert np.array_equal(limited[quiet], samples[quiet])
    loud = limited[~quiet]
    assert np.all((np.abs(loud) >= KNEE) & (np.abs(loud) <= 1) & (np.abs(loud) <= np.abs(samples[~quiet])))
    assert np.array_equal(np.sign(loud), np.sign(samples[~quiet]))


def test_it_rises_all_the_way_without_a_step() -> None:
    """Over a ramp through both knees, no sample is below the one before it, and none is further from it than before."""
    ramp = np.linspace(-3, 3, 200_001, dtype=np.float32)[None]
    rises = np.diff(limit(ramp)[0])
    assert rises.min() >= 0
    assert rises.max() <= np.diff(ramp[0]).max() * 1.01


@given(any_samples, st.integers(0, 50))
def test_a_stream_is_limited_as_the_whole(samples: Samples, at: int) -> None:
    """Cut anywhere, both parts are as they are in the whole, bit for bit."""
    parts = [limit(samples[:, :at]), limit(samples[:, at:])]
    assert np.array_equal(np.concatenate(parts, axis=1), limit(samples))


def test_infinity_is_full_scale() -> None:
    """Even that does not get out."""
    assert limit(np.array([[np.inf, -np.inf]], np.float32)).tolist() == [[1.0, -1.0]]
