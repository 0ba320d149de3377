"""What the engines' tests share: requests, prompts, and what comes back."""

from __future__ import annotations

from typing import Any

import numpy as np

from gary.audio.clip import Clip
from gary.engine.request import AudioStretch, CodePrompt, Engine, GenerationEvent, GenerationRequest, TakeCodes
from tests.parity.models import MODELS

TINY = str(MODELS / "gary-tiny")
ENDLESS_S = 1200.0
FP32 = {"device": "cpu", "threads": 1, "hub_cache_dir": MODELS, "hub_offline": True, "precision": "fp32"}


def noise(duration_s: float, rate_hz: int = 32_000, channels: int = 1, seed: int = 1) -> Clip:
    """A prompt as Ray hands it over: read-only."""
    random = np.random.default_rng(seed)
    samples = random.uniform(-0.5, 0.5, (channels, round(duration_s * rate_hz))).astype(np.float32)
    samples.flags.writeable = False
    return Clip(samples, rate_hz)


def ask(name: str, duration_s: float = 2.0, seed: int = 7, **fields: Any) -> GenerationRequest:
    return GenerationRequest(id=name, duration_s=duration_s, seed=seed, **fields)


Prompt = Clip | CodePrompt | None


async def events_of(engine: Engine, request: GenerationRequest, prompt: Prompt = None) -> list[GenerationEvent]:
    return [event async for event in engine.generate(request, prompt)]


async def samples_of(engine: Engine, request: GenerationRequest, prompt: Prompt = None) -> Any:
    """[C, N] of a request of one take."""
    return (await take_of(engine, request, prompt))[0]


async def take_of(engine: Engine, request: GenerationRequest, prompt: Prompt = None) -> tuple[Any, Any]:
    """[C, N] and [K, T] of a request of one take."""
    return answer(await events_of(engine, request, prompt), 0)


def answer(events: list[GenerationEvent], take: int) -> tuple[Any, Any]:
    """[C, N] and [K, T] of a take: its stretches, which must follow each other without gap, and then its codes."""
    told = [event for event in events if isinstance(event, AudioStretch | TakeCodes) and event.take == take]
    *stretches, codes = told
    assert isinstance(codes, TakeCodes)
    at, pieces = 0, []
    for stretch in stretches:
        assert isinstance(stretch, AudioStretch)
        assert stretch.start_sample == at
        at += stretch.clip.length_samples
        pieces.append(stretch.clip.samples)
    return np.concatenate(pieces, axis=1), codes.codes
