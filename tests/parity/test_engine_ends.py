"""How requests end otherwise than finished, and engines: given up, failed, closed; and what is left for the next."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import numpy as np
import pytest

from gary.config import EngineConfig
from gary.engine.batching import BatchingEngine
from gary.engine.core import EngineCore
from gary.engine.request import AudioStretch, Progress
from gary.errors import Aborted, DeviceError, ServerError
from tests.parity.asking import ENDLESS_S, FP32, TINY, ask, events_of, noise, samples_of


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


async def test_close_aborts_and_ends_the_threads() -> None:
    engine = await asyncio.to_thread(BatchingEngine.start, TINY, EngineConfig.model_validate(FP32))
    running = asyncio.create_task(events_of(engine, ask("long", ENDLESS_S)))
    await asyncio.sleep(0)
    await asyncio.to_thread(engine.close)
    with pytest.raises(Aborted):
        await running
    assert not engine._decode_thread.is_alive()
