"""The batching engine beside the reference, through the same face: the same music, in company, as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch

from gary.audio.clip import Clip
from gary.config import EngineConfig
from gary.engine.batching import BatchingEngine
from gary.engine.card import unnamed_sha256
from gary.engine.checkpoint import load
from gary.engine.parts import make_parts
from gary.engine.reference import ReferenceEngine
from gary.engine.request import (
    AudioStretch,
    Began,
    CodePrompt,
    Engine,
    GenerationParams,
    GenerationRequest,
    Progress,
    TakeCodes,
)
from gary.errors import InvalidInput
from tests.parity.asking import FP32, TINY, answer, ask, events_of, noise, samples_of, take_of
from tests.parity.models import MODELS, reshaped_model, stereo_model, tiny_model

GREEDY = GenerationParams(use_sampling=False)


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceEngine]:
    tiny_model()
    engine = ReferenceEngine.start(TINY, EngineConfig.model_validate(FP32))
    yield engine
    engine.close()


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
