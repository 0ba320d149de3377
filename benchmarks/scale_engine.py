"""An engine whose time is a timer: it holds a slot for its steps and takes no processor, as a GPU would from outside.

What it plays is silence of the right length. A step of 0 s answers at once. It makes a service's own scaling visible
where the cores, and not the service, would be the limit; it says nothing about any device.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import numpy as np

from deployments import musicgen
from gary.audio.clip import Clip
from gary.config import EngineConfig, ModelSpec, TracingConfig
from gary.engine.request import (
    AudioStretch,
    Began,
    CodePrompt,
    GenerationEvent,
    GenerationRequest,
    ModelCard,
    Progress,
    TakeCodes,
)

RATE_HZ, FRAMES_PER_S, CODEBOOKS = 32_000, 50, 4
FRAME_SAMPLES = RATE_HZ // FRAMES_PER_S
_NO_DIGEST = "0" * 64


class PacedEngine:
    """Args:
    slots: requests that are paced at once; others wait, first come, first served.
    step_s: of one new frame, whoever else is in a slot.
    """

    sample_rate_hz = RATE_HZ
    channels = 1
    held_bytes = 0
    card = ModelCard(_NO_DIGEST, _NO_DIGEST, "paced-1", "none", "none", RATE_HZ, 1, FRAME_SAMPLES)

    def __init__(self, slots: int, step_s: float) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._step_s = step_s

    async def generate(
        self, request: GenerationRequest, prompt: Clip | CodePrompt | None
    ) -> AsyncGenerator[GenerationEvent, None]:
        """As `Engine.generate`, of one take; nothing here fails."""
        assert request.takes == 1, f"{request.takes} takes: it makes one"
        frames, prompt_frames = round(request.duration_s * FRAMES_PER_S), _prompt_frames(prompt)
        yield Began(self.card, prompt_frames * FRAME_SAMPLES, frames * FRAME_SAMPLES)
        if prompt_frames:
            yield _silence(0, prompt_frames)
        async with self._slots:
            since_s = asyncio.get_running_loop().time()
            for first in range(prompt_frames, frames, FRAMES_PER_S):
                until = min(first + FRAMES_PER_S, frames)
                await _sleep_until(since_s + (until - prompt_frames) * self._step_s)
                yield _silence(first, until)
                yield Progress(until - prompt_frames, frames - prompt_frames)
        yield TakeCodes(0, np.zeros((CODEBOOKS, frames), np.int16))

    def abort(self, request_id: str) -> bool:
        """A benchmark gives nothing up."""
        return False

    def check_health(self) -> None:
        """A timer does not fail."""

    def close(self) -> None:
        """There is nothing to free."""


class PacedMusicGen(musicgen.MusicGen):
    """The product's deployment on a PacedEngine: its checkpoint's name is the seconds of a step."""

    async def __init__(  # type: ignore[misc]
        self, models: tuple[ModelSpec, ...], config: EngineConfig, tracing_config: TracingConfig | None = None
    ) -> None:
        await super().__init__(
            models,
            config,
            start=lambda name, config: PacedEngine(config.slots, float(name)),
            tracing_config=tracing_config,
        )


def _prompt_frames(prompt: Clip | CodePrompt | None) -> int:
    match prompt:
        case None:
            return 0
        case CodePrompt(codes=codes):
            return int(codes.shape[1])
        case Clip():
            return round(prompt.duration_s * FRAMES_PER_S)


def _silence(first_frame: int, until_frame: int) -> AudioStretch:
    samples = np.zeros((1, (until_frame - first_frame) * FRAME_SAMPLES), np.float32)  # [C, N]
    return AudioStretch(first_frame * FRAME_SAMPLES, Clip(samples, RATE_HZ))


async def _sleep_until(at_s: float) -> None:
    await asyncio.sleep(at_s - asyncio.get_running_loop().time())
