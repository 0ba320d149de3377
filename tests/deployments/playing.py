"""An engine without a model: what it plays follows from codes, seed and prompt by arithmetic that a test can repeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gary import errors
from gary.audio.clip import Clip, Samples
from gary.audio.crop import fit
from gary.engine.request import (
    AudioStretch,
    Began,
    CodeArray,
    CodePrompt,
    GenerationEvent,
    GenerationRequest,
    ModelCard,
    Progress,
    TakeCodes,
)
from gary.errors import InvalidInput

CODEBOOKS = 4
STRETCH_S = 1.0


@dataclass(frozen=True)
class Codec:
    """Renders a code as a level, beyond full scale too; hears the mean of a frame."""

    sha256: str
    rate_hz: int
    channels: int

    @property
    def frame_samples(self) -> int:
        return self.rate_hz // 50

    def rendered(self, codes: CodeArray) -> Samples:
        """[K, T] as [C, N]; the second channel is the first upside down."""
        levels = ((codes[0] % 101) - 50).astype(np.float32) / 40
        signs = np.array([1, -1], np.float32)[: self.channels]
        return np.repeat(signs[:, None] * levels[None], self.frame_samples, axis=1)

    def heard(self, clip: Clip) -> CodeArray:
        """[C, N] at this codec's rate and channels as [K, T]; the last frame is filled up with silence."""
        frames = -(-clip.length_samples // self.frame_samples)
        missing = frames * self.frame_samples - clip.length_samples
        means = np.pad(clip.samples[0], (0, missing)).reshape(frames, -1).mean(axis=1)
        return np.stack([(np.rint(means * 500) + 1000 + k).astype(np.int16) for k in range(CODEBOOKS)])

    def made(self, seed: int, frames: int, of_frames: int) -> CodeArray:
        """The codes of frames `frames` to `of_frames` of an answer."""
        time = np.arange(frames, of_frames)
        return np.stack([(seed * 31 + time * 7 + k) % 2048 for k in range(CODEBOOKS)]).astype(np.int16)


CODECS = {
    "playing": Codec("a" * 64, 32_000, 1),
    "other": Codec("b" * 64, 16_000, 2),
}


class PlayingEngine:
    """Does what the request's description says.

    A path: begins, goes on for ever, and leaves a file there when it is told to stop. `until` and a path: makes the
    last stretch of each take once there is a file. An error's name: raises it. Nothing: plays.
    """

    def __init__(self, checkpoint: str) -> None:
        self.codec = CODECS[checkpoint]
        self.sample_rate_hz = self.codec.rate_hz
        self.channels = self.codec.channels
        self.card = ModelCard(
            checkpoint_sha256="c" * 64,
            codec_sha256=self.codec.sha256,
            engine_version="playing-1",
            precision="fp32",
            device="none",
            sample_rate_hz=self.sample_rate_hz,
            channels=self.channels,
            frame_samples=self.codec.frame_samples,
        )

    async def generate(
        self, request: GenerationRequest, prompt: Clip | CodePrompt | None
    ) -> AsyncGenerator[GenerationEvent, None]:
        codes, prompt_samples = self._taken(prompt)
        length_samples = round(request.duration_s * self.sample_rate_hz)
        words = request.description
        if words is not None and not words.startswith(("/", "until ")):
            raise getattr(errors, words)("the engine was told to")
        yield Began(self.card, prompt_samples, length_samples)
        if words is not None and words.startswith("/"):
            async for event in self._endless(Path(words)):
                yield event
        async for event in self._played(request, codes, length_samples):
            yield event

    def _taken(self, prompt: Clip | CodePrompt | None) -> tuple[CodeArray, int]:
        match prompt:
            case None:
                return np.zeros((CODEBOOKS, 0), np.int16), 0
            case Clip():
                fitted = fit(prompt, self.sample_rate_hz, self.channels)
                return self.codec.heard(fitted), fitted.length_samples
            case CodePrompt(codes=codes):
                if prompt.codec_sha256 != self.codec.sha256:
                    raise InvalidInput("codes of another codec", "other_codec")
                return codes, codes.shape[1] * self.codec.frame_samples

    async def _played(
        self, request: GenerationRequest, prompt: CodeArray, length_samples: int
    ) -> AsyncGenerator[GenerationEvent, None]:
        frames = -(-length_samples // self.codec.frame_samples)
        seeds = range(request.seed, request.seed + request.takes)
        answers = [np.concatenate([prompt, self.codec.made(seed, prompt.shape[1], frames)], axis=1) for seed in seeds]
        audio = [self.codec.rendered(codes)[:, :length_samples] for codes in answers]  # [C, N] each
        step = round(STRETCH_S * self.sample_rate_hz)
        for start in range(0, length_samples, step):
            if request.description is not None and start + step >= length_samples:
                await _exists(Path(request.description.removeprefix("until ")))
            for take, samples in enumerate(audio):
                clip = Clip(np.ascontiguousarray(samples[:, start : start + step]), self.sample_rate_hz)
                yield AudioStretch(start, clip, take)
            done = min(frames, (start + step) // self.codec.frame_samples) - prompt.shape[1]
            yield Progress(max(0, done) * request.takes, (frames - prompt.shape[1]) * request.takes)
        for take, codes in enumerate(answers):
            yield TakeCodes(take, codes)

    async def _endless(self, stopped: Path) -> AsyncGenerator[GenerationEvent, None]:
        try:
            while True:
                yield Progress(1, 2)
                await asyncio.sleep(0.01)
        finally:
            stopped.touch()  # noqa: ASYNC240  nothing may be awaited when it is closed

    @property
    def held_bytes(self) -> int:
        return 0

    def abort(self, request_id: str) -> bool:
        return False

    def check_health(self) -> None:
        pass

    def close(self) -> None:
        pass


async def _exists(path: Path) -> None:
    while not path.exists():  # noqa: ASYNC110, ASYNC240  the test is another process
        await asyncio.sleep(0.01)
