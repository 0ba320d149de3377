"""What a model can be asked for: lengths in whole frames and samples, and the bounds of every parameter. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gary.audio.clip import Clip
from gary.engine.request import CodePrompt, GenerationParams, GenerationRequest, ModelCard
from gary.errors import InvalidInput

DESCRIPTION_MAX_CHARS = 2000  # the text encoder's work grows with the square of a description's length


@dataclass(frozen=True)
class ModelLimits:
    """The sizes of a model that bound its requests."""

    sample_rate_hz: int
    channels: int
    frame_samples: int  # samples of one frame, and channel
    window_frames: int  # the longest stretch that the model sees at once
    codebooks: int  # K
    codebook_size: int  # tokens that there are to draw from

    @property
    def window_s(self) -> float:
        return self.window_frames * self.frame_samples / self.sample_rate_hz

    def samples(self, duration_s: float) -> int:
        """Samples per channel of an answer of this length."""
        return round(duration_s * self.sample_rate_hz)

    def frames(self, samples: int) -> int:
        """Frames that hold so many samples, the last one maybe in part."""
        return -(-samples // self.frame_samples)


def check_request(
    request: GenerationRequest, prompt: Clip | CodePrompt | None, limits: ModelLimits, card: ModelCard
) -> None:
    """Refuses what the model could not do, before any work is done.

    Raises:
        InvalidInput: a number is out of range, or the prompt is empty, no finite sound, or not shorter than the answer;
            code `other_codec`: it is codes of another codec than the card names.
    """
    _require(math.isfinite(request.duration_s), f"duration_s is a number of seconds, not {request.duration_s}")
    _require(limits.samples(request.duration_s) >= 1, f"duration_s is at least one sample, not {request.duration_s:g}")
    _require(request.takes >= 1, f"takes is at least 1, not {request.takes}")
    last_seed = request.seed + request.takes - 1
    _require(request.seed >= 0 and last_seed < 2**63, f"seeds are from 0 to 2**63 - 1, not {request.seed}, {last_seed}")
    length = len(request.description or "")
    _require(length <= DESCRIPTION_MAX_CHARS, f"description: {length} characters; at most {DESCRIPTION_MAX_CHARS}")
    _check_params(request.params, limits)
    if limits.frames(limits.samples(request.duration_s)) > limits.window_frames:
        _check_stride(request.params.extend_stride_s, limits)
    match prompt:
        case Clip():
            _check_clip(prompt, request.duration_s)
        case CodePrompt():
            _check_codes(prompt, limits, card)
            check_prompt_frames(prompt.codes.shape[1], limits.frames(limits.samples(request.duration_s)), limits)


def check_prompt_frames(prompt_frames: int, answer_frames: int, limits: ModelLimits) -> None:
    """Refuses a prompt that leaves the model no frame to make; known once it is at the model's rate.

    Raises:
        InvalidInput: as above, or the prompt is empty at that rate.
    """
    _require(prompt_frames > 0, "the prompt is too short to be heard at the model's rate")
    _require(
        prompt_frames < min(answer_frames, limits.window_frames),
        f"the prompt takes {prompt_frames} frames of {answer_frames}, the model sees {limits.window_frames} at once: "
        "nothing is left to be made",
    )


def _check_params(params: GenerationParams, limits: ModelLimits) -> None:
    card = limits.codebook_size
    _require(0 <= params.top_k <= card, f"top_k is from 0 (all) to {card}, not {params.top_k}")
    _require(0 <= params.top_p <= 1, f"top_p is from 0 (off) to 1, not {params.top_p}")
    heat, guidance = params.temperature, params.cfg_coef
    # Beyond these bounds logits overflow; a GPU then fails for good, which no request may bring about.
    _require(heat == 0 or 0.001 <= heat <= 1000, f"temperature is 0 (greedy) or from 0.001 to 1000, not {heat}")
    _require(-100 <= guidance <= 100, f"cfg_coef is from -100 to 100, not {guidance}")


def _check_stride(extend_stride_s: float, limits: ModelLimits) -> None:
    frame_s = limits.frame_samples / limits.sample_rate_hz
    _require(
        frame_s <= extend_stride_s < limits.window_s,
        f"extend_stride_s is from {frame_s:g} to under {limits.window_s:g} s, not {extend_stride_s}",
    )


def _check_clip(prompt: Clip, duration_s: float) -> None:
    _require(prompt.channels > 0 and prompt.length_samples > 0, "the prompt holds no sample")
    _require(
        prompt.duration_s < duration_s,
        f"the prompt is {prompt.duration_s:g} s long; it must be shorter than the answer's {duration_s:g} s",
    )
    _require(bool(np.isfinite(prompt.samples).all()), "the prompt holds samples that are no numbers")


def _check_codes(prompt: CodePrompt, limits: ModelLimits, card: ModelCard) -> None:
    if prompt.codec_sha256 != card.codec_sha256:
        raise InvalidInput(
            f"the prompt is codes of the codec {prompt.codec_sha256}; this model's is {card.codec_sha256}",
            "other_codec",
        )
    codes, size = prompt.codes, limits.codebook_size
    holds = codes.ndim == 2 and codes.shape[0] == limits.codebooks and codes.dtype.kind in "iu"
    _require(holds, f"codes are integers, [{limits.codebooks}, T], not {codes.dtype} {codes.shape}")
    _require(codes.shape[1] >= 1, "the prompt holds no code")
    _require(bool(((codes >= 0) & (codes < size)).all()), f"the prompt holds codes that are not from 0 to {size - 1}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InvalidInput(otherwise)
