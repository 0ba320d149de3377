"""The engine on a GPU: graphs against what they were captured from, tokens against audiocraft's, memory that stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import psutil
import pytest
import torch

from gary.config import EngineConfig
from gary.engine.batching import BatchingEngine
from gary.engine.device import settle_arithmetic
from gary.engine.parts import Parts, make_parts
from gary.engine.request import AudioStretch, GenerationParams, GenerationRequest
from gary.engine.runner import Runner
from gary.errors import Aborted
from tests.parity.models import reshaped_model
from tests.parity.test_static import ASKS, SLOTS, with_static_steps
from tests.parity.test_tokens import Ask, audiocrafts, compared, ours, token_request

SAMPLED = [replace(ask, params=GenerationParams(), seed=seed) for seed, ask in enumerate(ASKS)]


def fp32_parts(device: str) -> Parts:
    config = EngineConfig(device=device, precision="fp32", slots=SLOTS, prefill_chunk=64)  # type: ignore[arg-type]
    return make_parts(reshaped_model(device=device), device, config)


def allocated_bytes(device: str) -> int:
    """Held by tensors on the device; by the whole process where the device is the CPU."""
    if device == "cpu":
        return int(psutil.Process().memory_info().rss)
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


@pytest.fixture(scope="module")
def parts(device: str) -> Parts:
    settle_arithmetic()
    return fp32_parts(device)


@pytest.fixture(scope="module")
def reference(device: str) -> Any:
    return reshaped_model(device=device)


async def test_graphs_are_what_decodes_here(parts: Parts, device: str) -> None:
    """On a GPU the engine is made with captured steps, so that the tests below are of them."""
    runner = parts.core._runner
    assert isinstance(runner, Runner)
    assert (runner._steps is not None) == (device == "cuda")


def test_replayed_graphs_draw_what_the_steps_draw_uncaptured(parts: Parts) -> None:
    """The same kernels on the same numbers: every token, greedy and sampled, of requests that come and go."""
    uncaptured = with_static_steps(parts)
    for asks in (ASKS, SAMPLED):
        expected = ours(uncaptured, asks, every=9)
        for made, one in zip(ours(parts, asks, every=9), expected, strict=True):
            assert torch.equal(made, one)


def test_greedy_tokens_are_audiocrafts(parts: Parts, reference: Any) -> None:
    """fp32 without TF32: all of them, up to a tie; most requests to their end."""
    made = ours(parts, ASKS, every=9)
    equal = [compared(reference, ask, one, audiocrafts(reference, ask)) for ask, one in zip(ASKS, made, strict=True)]
    assert sum(frames == ask.frames for frames, ask in zip(equal, ASKS, strict=True)) >= len(ASKS) - 2, equal


def test_memory_is_flat(parts: Parts, device: str) -> None:
    """Fifty requests of all kinds later the device holds what it held after five, to a hundredth."""
    held = []
    for number in range(50):
        parts.core.add(token_request(parts, number, SAMPLED[number % len(SAMPLED)]))
        while parts.core.busy:
            for drawn in parts.core.step():
                if drawn.finished:
                    parts.core.forget(drawn.key)
        if number in (4, 49):
            held.append(allocated_bytes(device))
    assert held[1] <= held[0] * 1.01, held


def test_an_aborted_request_leaves_no_trace(parts: Parts) -> None:
    """Steps of it may still be queued: its slot's next request draws what it draws alone."""
    ask = Ask(20, 90)
    (alone,) = ours(parts, [ask])
    parts.core.add(token_request(parts, 1000, Ask(100, 1400)))
    for _ in range(30):
        parts.core.step()
    assert parts.core.abort(1000)
    (after,) = ours(parts, [ask])
    assert torch.equal(after, alone)


@pytest.fixture
async def engine(device: str) -> AsyncIterator[BatchingEngine]:
    config = EngineConfig(device=device, slots=32, prefill_chunk=512)  # type: ignore[arg-type]
    engine = BatchingEngine(make_parts(reshaped_model(device=device), device, config), config.threads)
    yield engine
    await asyncio.to_thread(engine.close)


async def test_32_requests_at_once_and_an_abort_among_them(engine: BatchingEngine) -> None:
    """Each gets every sample that it asked for; the one that is given up in the middle gets none more."""

    async def samples_of(number: int) -> int:
        description = ["", "drums", "a long violin"][number % 3]
        request = GenerationRequest(f"r{number}", 2.0 + number / 10, seed=number, description=description)
        made = 0
        async for event in engine.generate(request, None):
            made += event.clip.length_samples if isinstance(event, AudioStretch) else 0
        return made

    async def given_up() -> None:
        async for _ in engine.generate(GenerationRequest("victim", 600.0, seed=1), None):
            engine.abort("victim")

    results = await asyncio.gather(*map(samples_of, range(31)), given_up(), return_exceptions=True)
    assert isinstance(results[31], Aborted)
    assert results[:31] == [round((2.0 + number / 10) * engine.sample_rate_hz) for number in range(31)]
