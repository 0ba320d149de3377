"""The batching engine beside the reference, through the same face: the same music, in company, as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from time import monotonic
from typing import Any

import numpy as np
import pytest
import torch

from gary.audio.clip import Clip
from gary.config import EngineConfig
from gary.engine.batching import BatchingEngine
from gary.engine.card import unnamed_sha256
from gary.engine.checkpoint import load
from gary.engine.core import EngineCore
from gary.engine.parts import make_parts
from gary.engine.reference import ReferenceEngine
from gary.engine.request import (
    AudioStretch,
    Began,
    CodePrompt,
    Engine,
    GenerationEvent,
    GenerationParams,
    GenerationRequest,
    Progress,
    TakeCodes,
)
from gary.errors import Aborted, DeviceError, InvalidInput, ServerError
from tests.parity.models import MODELS, reshaped_model, stereo_model, tiny_model

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
        (ask("x", takes=0), None),
        (ask("x", seed=2**63 - 2, takes=3), None),
    ],
)
async def test_bad_requests_are_refused(engine: BatchingEngine, request_: GenerationRequest, prompt: Clip) -> None:
    with pytest.raises(InvalidInput):
        await events_of(engine, request_, prompt)


# ---- takes, codes, and what is told of them ----


@pytest.fixture(params=["engine", "reference"])
def either(request: pytest.FixtureRequest) -> Engine:
    """Each engine, through the one face."""
    found: Engine = request.getfixturevalue(request.param)
    return found


async def test_takes_are_what_their_seeds_make_alone(either: Engine) -> None:
    """Samples and codes, bit for bit, of audio prompts and of none."""
    for prompt, duration_s in ((noise(2.0), 3.1), (None, 1.5)):
        request = ask("takes", duration_s, seed=40, description="drums", takes=3)
        events = await events_of(either, request, prompt)
        for take in range(3):
            alone = await take_of(either, ask("alone", duration_s, seed=40 + take, description="drums"), prompt)
            for made, expected in zip(answer(events, take), alone, strict=True):
                np.testing.assert_array_equal(made, expected)


async def test_what_is_told_and_when(either: Engine) -> None:
    """First what is made and by whom, then progress over all takes, which climbs to its end; each take's codes last."""
    events = await events_of(either, ask("told", 3.01, takes=2), noise(1.0, 44_100, 2))
    assert events[0] == Began(either.card, prompt_samples=32_000, length_samples=96_320)
    assert events[1] == Progress(0, 2 * (151 - 50))
    progress = [event for event in events if isinstance(event, Progress)]
    done = [event.frames_done for event in progress]
    assert {event.frames_total for event in progress} == {202}
    assert done == sorted(done)
    assert done[-1] == 202
    for take in range(2):
        samples, codes = answer(events, take)
        assert samples.shape == (1, 96_320)
        assert (codes.shape, codes.dtype) == ((4, 151), np.int16)
    assert isinstance(events[-1], TakeCodes)
    (nothing, *_) = await events_of(either, ask("text", 1.0))
    assert nothing == Began(either.card, prompt_samples=0, length_samples=32_000)


async def test_a_prompt_of_codes_is_the_prompt_that_they_encode(either: Engine) -> None:
    """The codes of a prompt, as an answer told them, go on as the prompt itself did; they need not be writable."""
    clip = noise(1.33)  # ends within a frame
    request = ask("codes", 3.0, description="jazz", takes=2)
    expected = await events_of(either, request, clip)
    codes = answer(expected, 0)[1][:, :67]
    codes.flags.writeable = False
    events = await events_of(either, request, CodePrompt(codes, either.card.codec_sha256))
    assert events[0] == Began(either.card, prompt_samples=67 * 640, length_samples=96_000)
    for take in range(2):
        for made, other in zip(answer(events, take), answer(expected, take), strict=True):
            np.testing.assert_array_equal(made, other)


async def test_codes_beyond_the_window(engine: BatchingEngine) -> None:
    """An answer's end, as codes, is gone on from past 30 s; takes slide each by itself."""
    whole = (await take_of(engine, ask("first", 12.0)))[1]
    prompt = CodePrompt(whole[:, -500:], engine.card.codec_sha256)
    events = await events_of(engine, ask("on", 34.0, seed=3, takes=2), prompt)
    for take in range(2):
        samples, codes = answer(events, take)
        assert samples.shape == (1, 34 * 32_000)
        np.testing.assert_array_equal(codes[:, :500], prompt.codes)
        np.testing.assert_array_equal(codes, (await take_of(engine, ask("alone", 34.0, seed=3 + take), prompt))[1])


async def test_codes_of_another_codec_are_refused(either: Engine) -> None:
    """By a code of its own, so that whoever asks can send the audio instead."""
    with pytest.raises(InvalidInput) as caught:
        await events_of(either, ask("foreign"), CodePrompt(np.zeros((4, 10), np.int16), "0" * 64))
    assert caught.value.code == "other_codec"


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((8, 10), np.int16),
        np.zeros((4, 0), np.int16),
        np.zeros((40,), np.int16),
        np.zeros((4, 10), np.float32),
        np.full((4, 10), -1, np.int16),
        np.full((4, 10), 2048, np.int16),
        np.zeros((4, 100), np.int16),  # the whole answer
    ],
    ids=lambda codes: f"{codes.dtype} {codes.shape} {codes.max(initial=0)} {codes.min(initial=0)}",
)
async def test_codes_that_are_none_are_refused(engine: BatchingEngine, codes: Any) -> None:
    """Before any work is done, and as the fault of whoever sent them."""
    with pytest.raises(InvalidInput) as caught:
        await events_of(engine, ask("odd", 2.0), CodePrompt(codes, engine.card.codec_sha256))
    assert caught.value.code == "invalid_input"


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_giving_up_drops_all_takes(engine: BatchingEngine, how: str) -> None:
    """Those that run and those that wait for a slot: all slots are free for whoever comes next."""
    events = engine.generate(ask("many", ENDLESS_S, takes=engine_slots(engine._parts.core) + 3), noise(3.0))
    async for event in events:
        if isinstance(event, AudioStretch) and event.take == 5:
            break
    if how == "abort":
        assert engine.abort("many")
        with pytest.raises(Aborted):
            async for _ in events:
                pass
    await events.aclose()
    await samples_of(engine, ask("next", 1.0))
    scheduler = engine._parts.core._scheduler
    assert (scheduler.running, scheduler.waiting) == (0, 0)
    assert not engine.abort("many")


async def test_a_model_and_its_codec_are_known_by_their_weights(engine: BatchingEngine, reference: Engine) -> None:
    """Either engine tells the same digests; a codec's is its own, whichever checkpoint and library it comes by."""
    ours, theirs = engine.card, reference.card
    assert (ours.checkpoint_sha256, ours.codec_sha256) == (theirs.checkpoint_sha256, theirs.codec_sha256)
    assert ours.engine_version != theirs.engine_version
    assert (ours.precision, ours.device) == ("fp32", "cpu")
    assert (ours.sample_rate_hz, ours.channels, ours.frame_samples) == (32_000, 1, 640)
    named = make_parts(load(str(MODELS / "gary-tiny-hf"), "cpu"), "cpu", EngineConfig.model_validate(FP32)).card
    assert named == ours
    other = make_parts(reshaped_model(seed=5), "cpu", EngineConfig.model_validate(FP32)).card
    assert other.checkpoint_sha256 != ours.checkpoint_sha256
    assert other.codec_sha256 == ours.codec_sha256
    stereo = make_parts(stereo_model(), "cpu", EngineConfig.model_validate(FP32)).card
    assert (stereo.channels, stereo.frame_samples) == (2, 640)
    assert stereo.codec_sha256 != ours.codec_sha256


def test_a_digest_is_of_the_values_alone() -> None:
    """Not of the type that they are held in, nor of how they lie in memory; one bit more is another digest."""
    tensors = [torch.arange(24.0).view(4, 6), torch.ones(3)]
    digest = unnamed_sha256(tensors)
    assert unnamed_sha256([tensors[1].half(), tensors[0].T.contiguous().T.half()]) == digest
    assert unnamed_sha256([tensors[0].view(6, 4), tensors[1]]) != digest
    tensors[0][3, 5] = float(np.nextafter(np.float32(23), np.float32(24)))
    assert unnamed_sha256(tensors) != digest


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


async def test_an_error_of_one_take_ends_them_all(engine: BatchingEngine) -> None:
    """The request fails as a whole, and leaves nothing behind."""
    core = engine._parts.core
    core.__class__ = PickyCore
    try:
        with pytest.raises(ServerError, match="unlucky"):
            await events_of(engine, ask("takes", ENDLESS_S, seed=12, takes=4))
        await samples_of(engine, ask("next", 1.0))
    finally:
        core.__class__ = EngineCore
    assert (core._scheduler.running, core._scheduler.waiting) == (0, 0)


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


async def test_its_steps_have_the_threads_that_the_config_says_and_all_else_one() -> None:
    """Another team of OpenMP threads would outnumber the cores, and then they sleep between all regions."""
    engine, here = await asyncio.to_thread(
        lambda: (
            BatchingEngine.start(TINY, EngineConfig.model_validate(FP32 | {"threads": 3})),
            torch.get_num_threads(),
        )
    )
    try:
        asked = Future[int]()
        engine._inbox.put(lambda: asked.set_result(torch.get_num_threads()))
        codec = engine._codec_thread.submit(torch.get_num_threads)
        assert (await asyncio.wrap_future(asked), await asyncio.wrap_future(codec), here) == (3, 1, 1)
    finally:
        await asyncio.to_thread(engine.close)


async def test_close_aborts_and_ends_the_threads() -> None:
    engine = await asyncio.to_thread(BatchingEngine.start, TINY, EngineConfig.model_validate(FP32))
    running = asyncio.create_task(events_of(engine, ask("long", ENDLESS_S)))
    await asyncio.sleep(0)
    await asyncio.to_thread(engine.close)
    with pytest.raises(Aborted):
        await running
    assert not engine._decode_thread.is_alive()
