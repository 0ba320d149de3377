"""Cuts from a finished answer what the next one begins with: its samples bit for bit, and the codes of its end.

Samples and codes of an answer lie on one grid (`gary.audio.codes`). The samples end where they are cut; the codes end
with the last whole frame before that, and the model's rendering of what lies between is skipped like the prompt's, so
that new music stays in time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gary.audio.codes import CodeArray, Codes
from gary.audio.pcm import Pcm
from gary.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Stretch:
    """What is kept of an answer.

    Attributes:
        pcm: the samples.
        prompt: [K, T] codes of its end; None where there are too few, or none.
        earlier: [K, T'] codes of what comes before the prompt.
        codes_at_sample: where in `pcm` the first of all these codes begins.
        past_samples: of `pcm` after the prompt's last frame, less than a frame.
    """

    pcm: Pcm
    prompt: CodeArray | None = None
    earlier: CodeArray | None = None
    codes_at_sample: int = 0
    past_samples: int = 0


def cut(parent: Pcm, codes: Codes | None, start_s: float, end_s: float | None, prompt_s: float) -> Stretch:
    """The stretch from `start_s` to `end_s` of an answer.

    Args:
        codes: of the answer, where there are any; the start is then taken back to the last whole frame.
        end_s: None is the answer's end; so is an end beyond it.
        prompt_s: of codes wanted; fewer where the stretch is shorter.

    Raises:
        InvalidInput: past_end, empty_range.
    """
    rate_hz = parent.rate_hz
    start = round(start_s * rate_hz)
    end = parent.length_samples if end_s is None else min(parent.length_samples, round(end_s * rate_hz))
    if start >= parent.length_samples:
        raise InvalidInput(
            f"the stretch starts at {start_s:g} s, the music ends at {parent.length_samples / rate_hz:g} s", "past_end"
        )
    if start >= end:
        raise InvalidInput(f"no audio between {start_s:g} s and {end_s:g} s", "empty_range")
    if codes is not None and start >= codes.start_sample:
        start -= (start - codes.start_sample) % codes.frame_samples
    kept = Pcm(parent.integers[start:end], rate_hz)
    return _with_codes(kept, codes, start, prompt_s) if codes is not None else Stretch(kept)


def _with_codes(kept: Pcm, codes: Codes, start: int, prompt_s: float) -> Stretch:
    """The samples from `start` of the answer on, with their codes, where those reach back as far as the prompt does."""
    size, end = codes.frame_samples, start + kept.length_samples
    first, stop = codes.frame_at(start), codes.frame_at(end)
    past_samples = end - (codes.start_sample + stop * size)
    wanted = max(1, math.floor(prompt_s * kept.rate_hz / size + 1e-6))  # whatever the quotient is in binary
    frames = min(wanted, kept.length_samples // size)
    if frames < 1 or stop - first < frames or past_samples >= size:
        return Stretch(kept)
    prompt_at = stop - frames
    return Stretch(
        kept,
        prompt=np.ascontiguousarray(codes.codes[:, prompt_at:stop]),
        earlier=np.ascontiguousarray(codes.codes[:, first:prompt_at]),
        codes_at_sample=codes.start_sample + first * size - start,
        past_samples=past_samples,
    )
