"""Ready means a real pass lately: the probe by a clock that the tests turn."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
import pytest

from gary.audio.clip import Clip
from gary.engine.probe import Probe
from gary.engine.request import (
    AudioStretch,
    Began,
    CodePrompt,
    GenerationEvent,
    GenerationRequest,
    ModelCard,
    Progress,
)
from gary.errors import DeviceError, InvalidInput

AUDIO = AudioStretch(0, Clip(np.zeros((1, 10), np.float32), 32_000))
CARD = ModelCard("", "", "", "fp32", "cpu", sample_rate_hz=32_000, channels=1, frame_samples=640)
BEGAN = Began(CARD, prompt_samples=0, length_samples=10)


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class CountingEngine:
    """Answers at once, and counts."""

    sample_rate_hz: int = 32_000
    channels: int = 1
    card: ModelCard = CARD
    error: Exception | None = None
    asked: list[GenerationRequest] = field(default_factory=list)

    async def generate(
        self, request: GenerationRequest, prompt: Clip | CodePrompt | None
    ) -> AsyncGenerator[GenerationEvent, None]:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        yield BEGAN
        yield AUDIO

    @property
    def held_bytes(self) -> int:
        return 0

    def abort(self, request_id: str) -> bool:
        return False

    def check_health(self) -> None:
        pass

    def close(self) -> None:
        pass


async def _events(*events: GenerationEvent) -> AsyncGenerator[GenerationEvent, None]:
    for event in events:
        yield event


async def test_an_idle_engine_is_asked_once_in_a_while() -> None:
    """After idle_s without a pass, and not again until as long after that."""
    clock, engine = Clock(), CountingEngine()
    probe = Probe(idle_s=30, stall_s=120, clock_s=clock)
    await probe.check(engine)
    assert not engine.asked
    clock.now_s += 31
    await probe.check(engine)
    await probe.check(engine)
    assert len(engine.asked) == 1
    clock.now_s += 31
    await probe.check(engine)
    assert len({request.id for request in engine.asked}) == 2


async def test_a_request_is_a_pass() -> None:
    """An engine that has served lately is not asked; only what a pass brings counts."""
    clock, engine = Clock(), CountingEngine()
    probe = Probe(idle_s=30, stall_s=120, clock_s=clock)
    clock.now_s += 29
    async for _ in probe.watch(_events(BEGAN, Progress(0, 5), Progress(1, 5))):
        pass
    clock.now_s += 29
    await probe.check(engine)
    assert not engine.asked


async def test_an_engine_at_work_must_be_heard_of() -> None:
    """At work and silent for stall_s is failed; not before, and not again once it is heard of."""
    clock, engine = Clock(), CountingEngine()
    probe = Probe(idle_s=30, stall_s=120, clock_s=clock)
    clock.now_s += 1000  # idle until now
    async with aclosing(probe.watch(_events(BEGAN, Progress(0, 5), Progress(1, 5)))) as events:
        await anext(events)
        clock.now_s += 119
        await probe.check(engine)
        assert await anext(events) == Progress(0, 5)  # nor is the prompt a pass
        clock.now_s += 2
        with pytest.raises(DeviceError) as caught:
            await probe.check(engine)
        assert caught.value.code == "stalled"
        await anext(events)
        await probe.check(engine)
    assert not engine.asked


@pytest.mark.parametrize("error", [DeviceError("gone"), InvalidInput("odd")])
async def test_a_probe_that_fails_is_the_devices_fault(error: Exception) -> None:
    """Whatever goes wrong with a request that is ours and right."""
    clock, engine = Clock(), CountingEngine(error=error)
    probe = Probe(idle_s=30, stall_s=120, clock_s=clock)
    clock.now_s += 31
    for _ in range(2):
        with pytest.raises(DeviceError):
            await probe.check(engine)


async def test_a_request_given_up_is_no_longer_under_way() -> None:
    """Closing the watched stream closes the engine's, and silence is idleness again."""
    clock, engine, closed = Clock(), CountingEngine(), []

    async def endless() -> AsyncGenerator[GenerationEvent, None]:
        try:
            while True:
                yield Progress(0, 5)
        finally:
            closed.append(True)

    probe = Probe(idle_s=30, stall_s=120, clock_s=clock)
    async with aclosing(probe.watch(endless())) as events:
        await anext(events)
    assert closed
    clock.now_s += 121
    await probe.check(engine)
    assert len(engine.asked) == 1
