"""The batching engine beside the reference, through the same face: the same music, in company, as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic
from typing import Any

import numpy as np
import pytest

from gary.audio.clip import Clip
from gary.config import EngineConfig
from gary.engine.batching import BatchingEngine
from gary.engine.core import EngineCore
from gary.engine.reference import ReferenceEngine
from gary.engine.request import AudioStretch, Engine, GenerationEvent, GenerationParams, GenerationRequest, Progress
from gary.errors import Aborted, DeviceError, InvalidInput, ServerError
from tests.parity.models import MODELS, tiny_model

TINY = str(MODELS / "gary-tiny")
GREEDY = GenerationParams(use_sampling=False)
ENDLESS_S = 1200.0
FP32 = {"device": "cpu", "threads": 1, "hub_cache_dir": MODELS, "hub_offline": True, "precision": "fp32"}


@pytest.fixture(scope="module")
def engine() -> Iterator[BatchingEngine]:
    tiny_model()
    engine = BatchingEngine.start(TINY, EngineConfig.model_validate(FP32))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceEngine]:
    tiny_model()
    engine = ReferenceEngine.start(TINY, EngineConfig.model_validate(FP32))
    yield engine
    engine.close()


def noise(duration_s: float, rate_hz: int = 32_000, channels: int = 1, seed: int = 1) -> Clip:
    """A prompt as Ray hands it over: read-only."""
    random = np.random.default_rng(seed)
    samples = random.uniform(-0.5, 0.5, (channels, round(duration_s * rate_hz))).astype(np.float32)
    samples.flags.writeable = False
    return Clip(samples, rate_hz)


def ask(name: str, duration_s: float = 2.0, seed: int = 7, **fields: Any) -> GenerationRequest:
    return GenerationRequest(id=name, duration_s=duration_s, seed=seed, **fields)


async def events_of(engine: Engine, request: GenerationRequest, prompt: Clip | None = None) -> list[GenerationEvent]:
    return [event async for event in engine.generate(request, prompt)]


async def samples_of(engine: Engine, request: GenerationRequest, prompt: Clip | None = None) -> Any:
    """[C, N]: the stretches, which must follow each other without gap."""
    stretches = [event for event in await events_of(engine, request, prompt) if isinstance(event, AudioStretch)]
    at = 0
    for stretch in stretches:
        assert stretch.start_sample == at
        at += stretch.clip.length_samples
    return np.concatenate([stretch.clip.samples for stretch in stretches], axis=1)


CASES = {
    "text": (ask("a", 2.0, description="drums and bass", params=GREEDY), None),
    "continuation": (ask("b", 8.0, description="drums and bass", params=GREEDY), noise(6.0)),
    "stereo prompt at another rate": (ask("c", 3.0, params=GREEDY), noise(1.0, 44_100, 2)),
    "odd length": (ask("d", 1.23456, description="jazz", params=GREEDY), noise(0.58)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_the_same_samples_as_the_reference(
    engine: BatchingEngine, reference: ReferenceEngine, case: tuple[GenerationRequest, Clip | None]
) -> None:
    """Greedy in fp32: equal length, and every sample within 1e-5 of audiocraft's whole decode."""
    made, expected = await samples_of(engine, *case), await samples_of(reference, *case)
    assert made.shape == expected.shape
    assert float(np.abs(made - expected).max()) < 1e-5


async def test_many_at_once_are_each_as_if_alone(engine: BatchingEngine) -> None:
    """Sampled, of different lengths, prompts and texts, started together: each equals its own solo run bit for bit."""
    asks = [
        (ask(f"r{i}", 1.0 + 0.7 * i, seed=i, description=["", "drums", "a long violin"][i % 3]), noise(0.3 * i + 0.1))
        for i in range(8)
    ]
    together = await asyncio.gather(*(samples_of(engine, *each) for each in asks))
    for each, made in zip(asks, together, strict=True):
        np.testing.assert_array_equal(made, await samples_of(engine, *each))


async def test_audio_comes_while_it_is_made(engine: BatchingEngine) -> None:
    """The first stretch comes after about a second of frames, long before half of the work; others follow it."""
    events = await events_of(engine, ask("early", 20.0), noise(2.0))
    first = next(index for index, event in enumerate(events) if isinstance(event, AudioStretch))
    last_before = max(
        (event.frames_done / event.frames_total for event in events[:first] if isinstance(event, Progress)), default=0.0
    )
    assert last_before < 0.5
    assert sum(isinstance(event, AudioStretch) for event in events) >= 10
    progress = [event.frames_done for event in events if isinstance(event, Progress)]
    assert progress == sorted(progress)
    assert progress[-1] == 18 * 50
    assert len(progress) <= 110


async def test_abort_frees_the_slot_at_once(engine: BatchingEngine) -> None:
    """Running or waiting; whoever comes next is served, and the other goes on undisturbed."""
    other = asyncio.create_task(samples_of(engine, ask("other", 6.0)))
    events = engine.generate(ask("victim", ENDLESS_S), None)
    async for event in events:
        if isinstance(event, Progress) and event.frames_done:
            break
    assert engine.abort("victim")
    with pytest.raises(Aborted):
        async for _ in events:
            pass
    assert not engine.abort("victim")
    made = await other
    np.testing.assert_array_equal(made, await samples_of(engine, ask("again", 6.0)))


async def test_who_stops_listening_aborts(engine: BatchingEngine) -> None:
    """Closing the iterator is enough: the engine has nothing left to do."""
    events = engine.generate(ask("leaver", ENDLESS_S), None)
    await anext(events)
    await events.aclose()
    began_s = monotonic()
    await samples_of(engine, ask("next", 1.0))
    assert monotonic() - began_s < 30
    assert not engine.abort("leaver")


@pytest.mark.parametrize(
    ("request_", "prompt"),
    [
        (ask("x", 1.0), noise(1.0)),
        (ask("x", 0.0), None),
        (ask("x", 1.0, params=GenerationParams(top_p=1.5)), None),
        (ask("x", 1.0, description="x" * 3000), None),
    ],
)
async def test_bad_requests_are_refused(engine: BatchingEngine, request_: GenerationRequest, prompt: Clip) -> None:
    with pytest.raises(InvalidInput):
        await events_of(engine, request_, prompt)


class SeatRefused(Exception):
    pass


class PickyCore(EngineCore):
    """Cannot seat a request of seed 13, as if something in it were broken."""

    def _seat(self, slot: int) -> None:
        if self._jobs[self._key(slot)].request.seed == 13:
            raise SeatRefused("unlucky")
        super()._seat(slot)


async def test_an_error_in_one_request_never_touches_its_neighbours(engine: BatchingEngine) -> None:
    """It fails alone, as our fault; the others make what they make alone, and the engine goes on."""
    alone = await samples_of(engine, ask("alone", seed=3))
    core = engine._parts.core
    core.__class__ = PickyCore
    try:
        asks = [ask("first", seed=3), ask("unlucky", seed=13), ask("second", seed=3)]
        results: list[Any] = await asyncio.gather(*(samples_of(engine, each) for each in asks), return_exceptions=True)
    finally:
        core.__class__ = EngineCore
    first, unlucky, second = results
    assert isinstance(unlucky, ServerError)
    assert not isinstance(unlucky, DeviceError)
    assert "unlucky" in unlucky.message
    assert np.array_equal(first, alone)
    assert np.array_equal(second, alone)
    engine.check_health()
    assert core._scheduler.free_slots == engine_slots(core)


def engine_slots(core: EngineCore) -> int:
    return core._scheduler._table.slots


async def test_an_error_of_the_device_fails_all_and_is_told() -> None:
    """Everybody under way hears of it, the engine is unhealthy from then on, and takes nobody."""
    engine = await asyncio.to_thread(BatchingEngine.start, TINY, EngineConfig.model_validate(FP32))

    class BrokenCore(EngineCore):
        def step(self) -> list[Any]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    core = engine._parts.core
    core.__class__ = BrokenCore
    results = await asyncio.gather(*(events_of(engine, ask(f"v{i}", 5.0)) for i in range(3)), return_exceptions=True)
    assert all(isinstance(result, DeviceError) for result in results), results
    with pytest.raises(DeviceError):
        engine.check_health()
    with pytest.raises(DeviceError):
        await events_of(engine, ask("late"))
    engine.close()


async def test_close_aborts_and_ends_the_threads() -> None:
    engine = await asyncio.to_thread(BatchingEngine.start, TINY, EngineConfig.model_validate(FP32))
    running = asyncio.create_task(events_of(engine, ask("long", ENDLESS_S)))
    await asyncio.sleep(0)
    await asyncio.to_thread(engine.close)
    with pytest.raises(Aborted):
        await running
    assert not engine._decode_thread.is_alive()
