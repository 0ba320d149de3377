"""Judges the codec on held-out loops. The language model waits for its `tempo_ratio`.

Only this and what measures import librosa: a machine without it trains all the same, and another one judges.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gary.audio.clip import Samples
from training.grid import RATE_HZ
from training.loops import Loop, loops
from training.measures import mel_distance_db, si_sdr_db, tempo_is

HEARD_S = 12.0


def judged_loops(count: int) -> list[Loop]:
    """The first held-out loops with drums whose tempo is found in themselves: of others, it says nothing when lost."""
    drummed = (loop for loop in loops("held-out") if "drums" in loop.score.parts)
    return list(islice((loop for loop in drummed if tempo_is(_heard(loop), RATE_HZ, loop.bpm)), count))


def _heard(loop: Loop) -> Samples:
    return loop.played(round(HEARD_S * RATE_HZ))


@torch.no_grad()
def render(codec: Any, wave: Samples, device: str) -> Samples:
    """What a codec makes of a wave [N] at 32 kHz."""
    codes, _ = codec.encode(torch.from_numpy(wave)[None, None].to(device))
    made: Tensor = codec.decode(codes)[0, 0, : len(wave)]
    return made.cpu().numpy()


def judge_codec(codec: Any, count: int, device: str) -> dict[str, float]:
    """Figures of a codec on `count` held-out loops; `tempo_ratio` is the gate's."""
    codec.eval()
    return judge_renderings(lambda wave: render(codec, wave, device), judged_loops(count))


def judge_renderings(rendered: Callable[[Samples], Samples], judged: list[Loop]) -> dict[str, float]:
    """What is left of loops by whatever renders them: [N] float32 at 32 kHz to as much of the same.

    Args:
        judged: of `judged_loops`, so that the share that keeps its tempo is a share of what can be found.
    """
    kept, distortion, distance = [], [], []
    for loop in judged:
        truth = _heard(loop)
        made = rendered(truth)
        kept.append(tempo_is(made, RATE_HZ, loop.bpm))
        distortion.append(si_sdr_db(made, truth))
        distance.append(mel_distance_db(made, truth, RATE_HZ))
    return {
        "loops": len(judged),
        "tempo_ratio": round(float(np.mean(kept)), 4),
        "si_sdr_db": round(float(np.median(distortion)), 2),
        "mel_distance_db": round(float(np.median(distance)), 2),
    }
