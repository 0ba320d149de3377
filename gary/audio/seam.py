"""Where new music meets samples that are kept as they are: what is left of the model's rendering, and how they join.

The model renders the prompt's end once more, near the kept samples but not equal to them. The step between the two is
added to the new music and dies away over `DECLICK_S`; after that, every sample is the model's own.
"""

from __future__ import annotations

import numpy as np

from gary.audio.clip import Samples
from gary.audio.limiter import limit
from gary.audio.pcm import Int16, to_int16

DECLICK_S = 0.01


def declick(samples: Samples, step: Samples, at_sample: int, rate_hz: int) -> Samples:
    """`samples` with an offset that falls from `step` to 0 within `DECLICK_S` of the seam, as half a cosine.

    Args:
        samples: [C, N] of the new music, from `at_sample` after the seam on.
        step: [C] by which what was kept lies above its rendering, where the two meet.
    """
    length = round(DECLICK_S * rate_hz)
    count = min(length - at_sample, samples.shape[1])
    if count <= 0 or not step.any():
        return samples
    phase = np.arange(at_sample, at_sample + count, dtype=np.float32) / np.float32(length)
    fading = np.float32(0.5) * (1 + np.cos(np.float32(np.pi) * phase))
    joined = samples.copy()
    joined[:, :count] += step[:, None] * fading
    return joined


class Seam:
    """One answer's way from the model into the file, stretch by stretch: the same samples however it is cut up.

    Args:
        kept: [N, C] what the answer begins with, and keeps; None: the model's rendering is the answer from its first
            sample on.
        skip_samples: so many samples of the rendering `kept` stands for.
    """

    def __init__(self, kept: Int16 | None, skip_samples: int, rate_hz: int) -> None:
        assert kept is None or skip_samples > 0, "where something is kept, the model has rendered its end"
        self._last = None if kept is None else kept[-1].astype(np.float32) / np.float32(32768)  # [C]
        self._step: Samples | None = None  # [C]
        self._skip = 0 if kept is None else skip_samples
        self._seen = 0  # samples of the rendering that have passed
        self._rate_hz = rate_hz

    def push(self, samples: Samples) -> Int16:
        """What the next stretch [C, N] of the rendering adds to the answer, [N', C]; empty while it is skipped."""
        start, self._seen = self._seen, self._seen + samples.shape[1]
        limited = limit(samples)  # before they are compared: what was kept was limited too
        if self._last is not None and start < self._skip <= self._seen:
            self._step = self._last - limited[:, self._skip - 1 - start]
        new = limited[:, max(0, self._skip - start) :]
        if self._step is not None:
            new = declick(new, self._step, max(0, start - self._skip), self._rate_hz)
        return to_int16(new)
