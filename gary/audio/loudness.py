"""Loudness after ITU-R BS.1770. Only ever one gain for a whole clip: what is inside a clip keeps its proportions."""

from __future__ import annotations

import numpy as np

from gary.audio.clip import Clip

TARGET_LUFS = -14.0
SILENCE_LUFS = -60.0  # below it, a gain would only bring up noise
PEAK_MAX = 0.99

_BLOCK_S = 0.4  # the standard's gating block
_SHORTEST_S = 0.01  # below it, not one period of a low tone fits


def loudness_lufs(clip: Clip) -> float | None:
    """Integrated loudness, gated; None for silence, which is anything below `SILENCE_LUFS`, and for under 10 ms.

    A clip shorter than the standard's block of 400 ms is measured as one block of its own length. The standard weighs
    five channels: of six and more, the low-frequency channel and those beyond 5.1 do not count.
    """
    import pyloudnorm  # here, since it brings all of scipy.signal: over a second that most processes need not spend

    if clip.duration_s < _SHORTEST_S:
        return None
    channels = clip.samples if clip.channels <= 5 else clip.samples[[0, 1, 2, 4, 5]]
    # One sample less than the clip: its length in seconds, times the rate, may round to more than its length.
    block_s = min(_BLOCK_S, (clip.length_samples - 1) / clip.rate_hz)
    meter = pyloudnorm.Meter(clip.rate_hz, block_size=block_s)
    found_lufs = float(meter.integrated_loudness(np.ascontiguousarray(channels.T)))
    return found_lufs if found_lufs >= SILENCE_LUFS else None


def normalise(clip: Clip, target_lufs: float = TARGET_LUFS) -> Clip:
    """The clip at the target loudness, or as near to it as its peak allows: nothing clips and nothing is compressed.

    Silence (see `loudness_lufs`) is returned as it is.
    """
    found_lufs = loudness_lufs(clip)
    if found_lufs is None:
        return clip
    gain = 10 ** ((target_lufs - found_lufs) / 20)
    peak = float(np.abs(clip.samples).max())
    return Clip(clip.samples * np.float32(min(gain, PEAK_MAX / peak)), clip.rate_hz)
