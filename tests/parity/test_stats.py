"""What the batching engine counts, beside what it made."""

from __future__ import annotations

import asyncio

from gary.config import EngineConfig
from gary.engine.batching import BatchingEngine
from gary.engine.request import GenerationRequest, Progress
from gary.engine.stats import Counting
from tests.parity.models import MODELS, tiny_model


async def test_the_numbers_are_those_of_the_music() -> None:
    """Frames of all takes, a step for each draw, nobody's room left taken; while it runs, its takes have slots."""
    tiny_model()
    config = EngineConfig(device="cpu", threads=1, precision="fp32", slots=4, hub_cache_dir=MODELS, hub_offline=True)
    engine = await asyncio.to_thread(BatchingEngine.start, str(MODELS / "gary-tiny"), config)
    try:
        assert isinstance(engine, Counting)
        before = engine.stats()
        events = engine.generate(GenerationRequest("two", duration_s=2.0, seed=1, takes=2), None)
        used = [engine.stats().occupancy.slots_in_use async for event in events if isinstance(event, Progress)]
        after = engine.stats()
    finally:
        await asyncio.to_thread(engine.close)
    assert after.frames - before.frames == 2 * 100
    assert after.frame_s == 0.02
    assert max(used) == 2
    steps, slot_steps = after.steps - before.steps, after.slot_steps - before.slot_steps
    assert 100 < steps < slot_steps < 2 * steps
    assert after.step_s > before.step_s > 0
    room = after.occupancy
    assert (room.slots, room.slots_in_use, room.rows_in_use, room.waiting) == (4, 0, 0, 0)
    assert after.row_bytes > 0
