"""The reference engine: what it answers, in which order, and what becomes of requests that fail or are given up."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gary.audio.clip import Clip, Samples
from gary.config import EngineConfig
from gary.engine.checkpoint import load
from gary.engine.hub import use_hub
from gary.engine.job import Job
from gary.engine.reference import ReferenceEngine
from gary.engine.request import (
    AudioStretch,
    Began,
    Engine,
    GenerationParams,
    GenerationRequest,
    Progress,
    TakeCodes,
)
from gary.engine.tiny import make_checkpoints
from gary.errors import Aborted, DeviceError, InvalidInput, ServerError

MODELS = Path(__file__).parents[2] / ".models"
TINY = str(MODELS / "gary-tiny")
ENDLESS_S = 1200.0  # takes minutes: who waits for its end fails
GREEDY = GenerationParams(use_sampling=False)


@pytest.fixture(scope="module")
def config() -> EngineConfig:
    use_hub(MODELS, offline=True)  # before anything that imports the hub's libraries
    make_checkpoints(MODELS)
    return EngineConfig(device="cpu", threads=1, hub_cache_dir=MODELS, hub_offline=True)


@pytest.fixture(scope="module")
def engine(config: EngineConfig) -> Iterator[ReferenceEngine]:
    engine = ReferenceEngine.start(TINY, config)
    yield engine
    engine.close()


@dataclass(frozen=True, eq=False)
class Answer:
    samples: Samples  # [C, N]
    progress: list[Progress]


def ask(name: str = "request", duration_s: float = 0.5, seed: int = 7, **fields: Any) -> GenerationRequest:
    return GenerationRequest(id=name, duration_s=duration_s, seed=seed, **fields)


def noise(duration_s: float, rate_hz: int = 32000, channels: int = 1, seed: int = 1) -> Clip:
    """A prompt as Ray hands it over: read-only."""
    random = np.random.default_rng(seed)
    samples = random.uniform(-0.5, 0.5, (channels, round(duration_s * rate_hz))).astype(np.float32)
    samples.flags.writeable = False
    return Clip(samples, rate_hz)


async def answer(engine: Engine, request: GenerationRequest, prompt: Clip | None = None) -> Answer:
    events = [event async for event in engine.generate(request, prompt)]
    stretches = [event for event in events if isinstance(event, AudioStretch)]
    progress = [event for event in events if isinstance(event, Progress)]
    assert isinstance(events[0], Began)
    assert [stretch.start_sample for stretch in stretches] == [0]
    assert isinstance(events[-1], TakeCodes)
    return Answer(stretches[0].clip.samples, progress)


async def begin(engine: ReferenceEngine, request: GenerationRequest) -> Any:
    """Starts a request and returns its iterator once frames are being made."""
    events = engine.generate(request, None)
    async for event in events:
        if isinstance(event, Progress) and event.frames_done > 0:
            return events
    raise AssertionError("it ended without progress")


# ---- what an answer holds ----


@pytest.mark.parametrize("duration_s", [0.58, 1.0, 1.23456, 2.00001])
@pytest.mark.parametrize("prompted", [True, False])
async def test_the_answer_is_exactly_as_long_as_asked(
    engine: ReferenceEngine, duration_s: float, prompted: bool
) -> None:
    """The length is the duration rounded to samples, frame boundary or not, and the sound is sound."""
    made = await answer(engine, ask(duration_s=duration_s), noise(0.25) if prompted else None)
    assert made.samples.shape == (1, round(duration_s * 32000))
    assert made.samples.dtype == np.float32
    assert 0.01 < float(made.samples.std()) < 0.5


async def test_a_full_window_and_more_keep_the_length(engine: ReferenceEngine) -> None:
    """30 s is one window; beyond it the window slides, and frames still add up."""
    assert (await answer(engine, ask(duration_s=30), noise(29))).samples.shape == (1, 960_000)
    stride = GenerationParams(extend_stride_s=29.5)
    beyond = await answer(engine, ask(duration_s=30.41, params=stride), noise(29))
    assert beyond.samples.shape == (1, 973_120)
    assert beyond.progress[-1] == Progress(71, 71)


async def test_the_answer_begins_with_the_prompt_as_the_codec_renders_it(
    config: EngineConfig, engine: ReferenceEngine
) -> None:
    """Up to the codec's look-ahead at the seam, the answer is decode(encode(prompt))."""
    import torch

    prompt = noise(1.0)
    made = await answer(engine, ask(duration_s=2), prompt)
    model = load(TINY, "cpu")
    with torch.no_grad():
        codes, _ = model.compression_model.encode(torch.tensor(prompt.samples)[None])  # [B, K, T]
    rendition = model.generate_audio(codes)[0].numpy()  # [C, N]
    settled = 32000 - 6 * 640
    np.testing.assert_allclose(made.samples[:, :settled], rendition[:, :settled], atol=1e-5)
    assert np.abs(made.samples[:, settled:32000] - rendition[:, settled:]).max() > 1e-3, "the seam is not the end"


@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (44100, 2), (44101, 6), (192000, 1)])
async def test_a_prompt_of_any_rate_and_channels_is_taken(engine: ReferenceEngine, rate_hz: int, channels: int) -> None:
    """Also where the two rates have no common divisor; the prompt's array is never written to."""
    made = await answer(engine, ask(), noise(0.25, rate_hz, channels))
    assert made.samples.shape == (1, 16000)
    assert made.progress[-1].frames_total == 25 - 13


async def test_equal_seeds_make_equal_samples_whatever_ran_before(engine: ReferenceEngine) -> None:
    """The same request after another one gives the same samples; another seed gives others."""
    prompt = noise(0.2)
    first = await answer(engine, ask(seed=1, description="drums"), prompt)
    other = await answer(engine, ask(seed=2, description="drums"), prompt)
    again = await answer(engine, ask(seed=1, description="drums"), prompt)
    np.testing.assert_array_equal(again.samples, first.samples)
    assert np.abs(other.samples - first.samples).max() > 1e-3


async def test_engines_of_one_process_do_not_disturb_each_other(config: EngineConfig, engine: ReferenceEngine) -> None:
    """They share torch's generator; still a request's samples are those of a request alone, also beside a load."""
    alone = await answer(engine, ask(duration_s=2))
    loading = asyncio.create_task(asyncio.to_thread(ReferenceEngine.start, str(MODELS / "gary-tiny-hf"), config))
    beside_load = await answer(engine, ask(duration_s=2))
    second = await loading
    beside, _ = await asyncio.gather(answer(engine, ask(duration_s=2)), answer(second, ask(duration_s=2, seed=9)))
    second.close()
    np.testing.assert_array_equal(beside_load.samples, alone.samples)
    np.testing.assert_array_equal(beside.samples, alone.samples)


async def test_descriptions_and_guidance_take_effect(engine: ReferenceEngine) -> None:
    """No description is the empty one; another description or another guidance gives other music."""
    unguided = replace(GREEDY, cfg_coef=1.0)

    async def sound(description: str | None, params: GenerationParams = GREEDY) -> Samples:
        return (await answer(engine, ask(duration_s=1, description=description, params=params))).samples

    none, violin = await sound(None), await sound("violin")
    np.testing.assert_array_equal(await sound(""), none)
    np.testing.assert_array_equal(await sound(None, unguided), none)
    assert np.abs(violin - none).max() > 1e-3
    assert np.abs(await sound("violin", unguided) - violin).max() > 1e-3


# ---- progress ----


async def test_progress_climbs_to_the_total(engine: ReferenceEngine) -> None:
    """It counts the frames to be made, never falls, ends complete, and comes about a hundred times at most."""
    made = await answer(engine, ask(duration_s=10), noise(2))
    done = [event.frames_done for event in made.progress]
    assert {event.frames_total for event in made.progress} == {400}
    assert done == sorted(done)
    assert done[-1] == 400
    assert 3 <= len(done) <= 102


async def test_a_slow_listener_hears_the_latest_progress_alone() -> None:
    """What was reported between two looks is one event."""
    job = Job("slow")
    for done in (0, 10, 20):
        job.report(Progress(done, 100))
    await job.rung()
    assert job.take_progress() == Progress(20, 100)
    assert job.take_progress() is None


async def test_the_event_loop_stays_free(engine: ReferenceEngine) -> None:
    """While the model runs, a tick of 10 ms comes on time."""
    lags_s: list[float] = []
    running = asyncio.create_task(answer(engine, ask(duration_s=20)))
    while not running.done():
        due_s = time.perf_counter() + 0.01
        await asyncio.sleep(0.01)
        lags_s.append(time.perf_counter() - due_s)
    await running
    assert len(lags_s) > 10
    assert sorted(lags_s)[len(lags_s) // 2] < 0.1


# ---- order, aborts, failures ----


async def test_requests_are_served_in_the_order_of_asking(engine: ReferenceEngine) -> None:
    """The first asked is the first answered, though it is the longest."""
    order: list[str] = []

    async def run(name: str, duration_s: float) -> None:
        await answer(engine, ask(name, duration_s))
        order.append(name)

    await asyncio.gather(run("a", 3), run("b", 1), run("c", 0.5))
    assert order == ["a", "b", "c"]


async def test_abort_of_a_running_request_frees_the_engine(engine: ReferenceEngine) -> None:
    """Its caller hears Aborted, and the next request is served long before the aborted one would have ended."""
    events = await begin(engine, ask("long", ENDLESS_S))
    async with asyncio.timeout(30):
        assert engine.abort("long")
        with pytest.raises(Aborted):
            async for _ in events:
                pass
        await answer(engine, ask("next"))
    assert not engine.abort("long")


async def test_abort_of_a_waiting_request_leaves_the_running_one_alone(engine: ReferenceEngine) -> None:
    """It ends while the one before it still runs; that one is answered."""
    async with asyncio.timeout(60):
        running = asyncio.create_task(answer(engine, ask("running", 20)))
        waiting = asyncio.create_task(answer(engine, ask("waiting", ENDLESS_S)))
        await asyncio.sleep(0)  # both have asked
        assert engine.abort("waiting")
        with pytest.raises(Aborted):
            await waiting
        assert not running.done()
        assert (await running).samples.shape == (1, 640_000)


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_who_stops_listening_aborts(engine: ReferenceEngine, how: str) -> None:
    """Closing the iterator, or cancelling the task that reads it, frees the engine and the request's id."""
    async with asyncio.timeout(30):
        events = await begin(engine, ask("left", ENDLESS_S))
        if how == "close":
            await events.aclose()
        else:
            reading = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert not engine.abort("left")
        await answer(engine, ask("left"))


NOT_SHORTER = noise(0.5)
BROKEN = Clip(np.full((1, 3200), np.nan, np.float32), 32000)


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"duration_s": math.nan}, None),
        ({"duration_s": math.inf}, None),
        ({"duration_s": -1.0}, None),
        ({"duration_s": 0.0}, None),
        ({"seed": -1}, None),
        ({"seed": 2**63}, None),
        ({"description": "x" * 2001}, None),
        ({"params": GenerationParams(top_k=-1)}, None),
        ({"params": GenerationParams(top_k=2049)}, None),
        ({"params": GenerationParams(top_p=1.5)}, None),
        ({"params": GenerationParams(temperature=math.nan)}, None),
        ({"params": GenerationParams(temperature=1e-40)}, None),
        ({"params": GenerationParams(cfg_coef=1e38)}, None),
        ({"params": GenerationParams(extend_stride_s=0.01), "duration_s": 40.0}, None),
        ({"params": GenerationParams(extend_stride_s=30), "duration_s": 40.0}, None),
        ({"duration_s": 0.5}, NOT_SHORTER),
        ({"duration_s": 0.4}, NOT_SHORTER),
        ({"duration_s": 0.499}, noise(0.495)),  # shorter, but it fills the last frame
        ({"duration_s": 40.0}, noise(30.5)),  # fills the window
        ({}, Clip(np.zeros((1, 0), np.float32), 32000)),
        ({}, Clip(np.zeros((0, 100), np.float32), 32000)),
        ({}, BROKEN),
    ],
)
async def test_what_cannot_be_done_is_refused(
    engine: ReferenceEngine, fields: dict[str, Any], prompt: Clip | None
) -> None:
    """Such a request is the client's fault, and the engine serves the next one."""
    with pytest.raises(InvalidInput):
        await answer(engine, ask(**fields), prompt)
    engine.check_health()
    await answer(engine, ask(duration_s=0.1))


async def test_an_id_under_way_is_refused(engine: ReferenceEngine) -> None:
    """Two requests of one name could not be told apart in `abort`; the first goes on."""
    events = await begin(engine, ask("twin", ENDLESS_S))
    with pytest.raises(InvalidInput, match="twin"):
        await answer(engine, ask("twin"))
    assert engine.abort("twin")
    await events.aclose()


def stumbling_engine() -> ReferenceEngine:
    """A real engine on a real model that fails where a description says how."""
    from audiocraft.models.musicgen import MusicGen

    class Stumbling(MusicGen):
        def generate(self, descriptions: list[str], progress: bool = False, return_tokens: bool = False) -> Any:
            if descriptions[0]:
                raise RuntimeError(descriptions[0])
            return super().generate(descriptions, progress, return_tokens)

    model = load(TINY, "cpu")
    return ReferenceEngine(Stumbling(model.name, model.compression_model, model.lm))


async def test_a_request_that_fails_spoils_no_other(config: EngineConfig) -> None:
    """Its caller gets one of our errors; the engine is healthy and answers the next request as ever."""
    engine = stumbling_engine()
    before = await answer(engine, ask())
    with pytest.raises(ServerError, match="shapes do not fit") as failure:
        await answer(engine, ask(description="shapes do not fit"))
    assert not isinstance(failure.value, DeviceError)
    engine.check_health()
    np.testing.assert_array_equal((await answer(engine, ask())).samples, before.samples)
    engine.close()


@pytest.mark.parametrize("message", ["CUDA error: an illegal memory access", "cuBLAS: CUBLAS_STATUS_EXECUTION_FAILED"])
async def test_a_failing_device_makes_the_engine_unhealthy(config: EngineConfig, message: str) -> None:
    """Its caller gets DeviceError, and so does everybody from then on."""
    engine = stumbling_engine()
    engine.check_health()
    with pytest.raises(DeviceError):
        await answer(engine, ask(description=message))
    with pytest.raises(DeviceError):
        engine.check_health()
    with pytest.raises(DeviceError):
        await answer(engine, ask())
    engine.close()


async def test_close_aborts_and_ends_the_thread(config: EngineConfig) -> None:
    """Running and waiting requests end with Aborted, later ones too, and no decode thread of it is left."""
    before = set(threading.enumerate())
    engine = ReferenceEngine(load(TINY, "cpu"))
    running = await begin(engine, ask("running", ENDLESS_S))
    waiting = asyncio.create_task(answer(engine, ask("waiting", ENDLESS_S)))
    await asyncio.sleep(0)
    assert any(thread.name.startswith("decode") for thread in set(threading.enumerate()) - before)
    engine.close()
    assert not any(thread.name.startswith("decode") for thread in set(threading.enumerate()) - before)
    with pytest.raises(Aborted):
        await anext(running)
    with pytest.raises(Aborted):
        await waiting
    with pytest.raises(Aborted):
        await answer(engine, ask())
