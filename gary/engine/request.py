"""What goes into an engine and what comes out: values only, no torch, so that any process may hold them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gary.audio.clip import Clip

CodeArray = npt.NDArray[np.int16]


@dataclass(frozen=True)
class GenerationParams:
    """How tokens are drawn; names and meaning are those of audiocraft's `set_generation_params`."""

    use_sampling: bool = True
    top_k: int = 250
    top_p: float = 0.0  # above 0 it overrides top_k
    temperature: float = 1.0
    cfg_coef: float = 3.0  # classifier-free guidance; 1 is none
    extend_stride_s: float = 18.0  # how far the window slides beyond the model's 30 s


@dataclass(frozen=True)
class GenerationRequest:
    """One piece of music to be made.

    Attributes:
        id: names the request in `abort`; unique among those under way.
        duration_s: length of the answer, prompt included.
        description: what the music should be; None or "" is the null condition.
        seed: of the first take; same seed, same request, same engine: same samples.
        takes: answers to be made from the one prompt; take n is what `seed + n` alone would make.
    """

    id: str
    duration_s: float
    seed: int
    description: str | None = None
    params: GenerationParams = field(default_factory=GenerationParams)
    takes: int = 1


@dataclass(frozen=True, eq=False)
class CodePrompt:
    """A prompt that is codes already: frames of an earlier answer, which need not be encoded again.

    Attributes:
        codes: [K, T] as `TakeCodes` told them.
        codec_sha256: of the codec that they belong to.
    """

    codes: CodeArray
    codec_sha256: str


@dataclass(frozen=True)
class ModelCard:
    """What decides, beside a request, which samples come out: a receipt names it.

    Attributes:
        checkpoint_sha256: of the language model's weights as they were loaded.
        codec_sha256: of the codec's.
        engine_version: changes whenever the same request may give other samples.
        frame_samples: samples per channel of one frame of codes.
    """

    checkpoint_sha256: str
    codec_sha256: str
    engine_version: str
    precision: str
    device: str
    sample_rate_hz: int
    channels: int
    frame_samples: int


@dataclass(frozen=True)
class Began:
    """The first event: what is being made, and by whom.

    Attributes:
        prompt_samples: the answer's first samples per channel, which render the prompt.
        length_samples: of the whole answer, per channel.
    """

    card: ModelCard
    prompt_samples: int
    length_samples: int


@dataclass(frozen=True)
class Progress:
    """So many of the frames to be made exist, over all takes."""

    frames_done: int
    frames_total: int


@dataclass(frozen=True, eq=False)
class AudioStretch:
    """Decoded audio as it comes into being, at the engine's rate, from `start_sample` of the answer on.

    The stretches of one request follow each other without gap or overlap; the first begins at 0 with the prompt
    as the codec renders it.
    """

    start_sample: int
    clip: Clip
    take: int = 0


@dataclass(frozen=True, eq=False)
class TakeCodes:
    """The last event of a take: the codes of the whole answer, [K, T], the prompt's included."""

    take: int
    codes: CodeArray


GenerationEvent = Began | Progress | AudioStretch | TakeCodes


class Engine(Protocol):
    """The face of every engine. One engine holds one model on one device."""

    @property
    def sample_rate_hz(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def card(self) -> ModelCard: ...

    @property
    def held_bytes(self) -> int:
        """What it takes of its device's memory for as long as it is held: weights, and the cache that is taken at once.

        Not what a step needs for its own length, nor what torch keeps for itself.
        """
        ...

    def generate(
        self, request: GenerationRequest, prompt: Clip | CodePrompt | None
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Runs a request; ends after every take's codes. Closing the iterator early aborts the request.

        Args:
            prompt: the audio to go on from, any rate and channel count, or its codes; None to begin from the
                description alone.

        Raises:
            InvalidInput: the prompt is not shorter than the duration, or a parameter is out of range; code
                `other_codec`: the prompt's codes are another codec's.
            Aborted: `abort` was called.
            DeviceError: the device failed; the engine is unhealthy from now on.
        """
        ...

    def abort(self, request_id: str) -> bool:
        """Gives a request up, waiting or running; False where none has this id."""
        ...

    def check_health(self) -> None:
        """Raises DeviceError when the engine cannot serve any more."""
        ...

    def close(self) -> None:
        """Ends the decode thread and frees the model."""
        ...
