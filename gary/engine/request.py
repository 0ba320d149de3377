"""What goes into an engine and what comes out: values only, no torch, so that any process may hold them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from gary.audio.clip import Clip


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
        seed: same seed, same request, same engine: same samples.
    """

    id: str
    duration_s: float
    seed: int
    description: str | None = None
    params: GenerationParams = field(default_factory=GenerationParams)


@dataclass(frozen=True)
class Progress:
    """So many of the frames to be made exist."""

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


GenerationEvent = Progress | AudioStretch


class Engine(Protocol):
    """The face of every engine. One engine holds one model on one device."""

    @property
    def sample_rate_hz(self) -> int: ...

    @property
    def channels(self) -> int: ...

    def generate(self, request: GenerationRequest, prompt: Clip | None) -> AsyncGenerator[GenerationEvent, None]:
        """Runs a request; ends after the last stretch. Closing the iterator early aborts the request.

        Args:
            prompt: the audio to go on from, any rate and channel count; None to begin from the description alone.

        Raises:
            InvalidInput: the prompt is not shorter than the duration, or a parameter is out of range.
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
