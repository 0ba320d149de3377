"""What an engine that decodes notices of another being loaded, and what is left of one that was closed."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any, cast

import torch

from gary.config import EngineConfig
from gary.engine.batching import BatchingEngine
from gary.engine.checkpoint import load
from gary.engine.gently import gently
from gary.engine.parts import make_parts
from gary.engine.request import Engine, GenerationRequest
from gary.engine.shelf import EngineShelf

MODELS = Path(__file__).parents[2] / ".models"
TINY = str(MODELS / "gary-tiny")
OTHER = str(MODELS / "gary-tiny-hf")
CONFIG = EngineConfig(
    device="cpu", precision="fp32", threads=1, slots=2, cache_bytes=1 << 26, hub_cache_dir=MODELS, hub_offline=True
)
STALL_S = 0.5  # the longest time between two steps that a load may cause; 12 times what was seen on a quiet machine


class ClockedCore:
    """An engine's core that notes when each step ended."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self.ends_s: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def step(self) -> Any:
        made = self._core.step()
        self.ends_s.append(monotonic())
        return made

    def longest_gap_s(self, since_s: float, until_s: float) -> float:
        ends_s = [since_s, *(end_s for end_s in self.ends_s if since_s < end_s < until_s), until_s]
        return max(after - before for before, after in pairwise(ends_s))


@asynccontextmanager
async def decoding(engine: Engine) -> AsyncIterator[None]:
    """While a long request runs on it."""
    request = GenerationRequest(id="long", duration_s=1200.0, seed=1, description="drums")
    begun = asyncio.Event()

    async def listen() -> None:
        async with aclosing(engine.generate(request, None)) as events:
            async for _ in events:
                begun.set()

    listening = asyncio.create_task(listen())
    await begun.wait()
    try:
        yield
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


async def test_a_load_does_not_stall_those_who_decode() -> None:
    """Steps go on while another checkpoint is read, taken apart, packed and warmed up."""
    cores: list[ClockedCore] = []

    def start(checkpoint: str) -> Engine:
        if checkpoint == OTHER:
            return BatchingEngine.start(checkpoint, CONFIG)
        parts = make_parts(load(checkpoint, "cpu"), "cpu", CONFIG)
        cores.append(ClockedCore(parts.core))
        engine = BatchingEngine(replace(parts, core=cast("Any", cores[0])), CONFIG.threads)
        asyncio.run(engine.warm_up())
        return engine

    shelf = EngineShelf(start, 1 << 34)
    gc.freeze()  # the garbage collector takes 0.4 s to look through what all tests before have left
    try:
        async with shelf.use(TINY) as engine, decoding(engine):
            since_s = monotonic()
            async with shelf.use(OTHER):
                until_s = monotonic()
            steps = sum(since_s < end_s < until_s for end_s in cores[0].ends_s)
            assert steps > 3
            assert cores[0].longest_gap_s(since_s, until_s) < STALL_S
    finally:
        gc.unfreeze()
        shelf.close()


async def test_a_closed_engine_leaves_nothing() -> None:
    """Its memory is free when the next is loaded, without waiting for the garbage collector."""
    held: list[weakref.ref[Any]] = []

    def start(checkpoint: str) -> Engine:
        assert all(cache() is None for cache in held)
        parts = make_parts(load(checkpoint, "cpu"), "cpu", CONFIG)
        held.extend(weakref.ref(tensor) for pair in parts.decoder.cache for tensor in pair)
        return BatchingEngine(parts, CONFIG.threads)

    shelf = EngineShelf(start, 0)
    try:
        for checkpoint in (TINY, OTHER):
            async with shelf.use(checkpoint):
                assert held
    finally:
        shelf.close()


def test_what_an_engine_takes_is_at_least_its_tensors() -> None:
    """The cache by its own figure, and in fp32 as much as the checkpoint's files hold, and the text encoder besides."""
    parts = make_parts(load(TINY, "cpu"), "cpu", CONFIG)
    cache = sum(keys.nbytes + values.nbytes for keys, values in parts.decoder.cache)
    weights = sum((Path(TINY) / name).stat().st_size for name in ("state_dict.bin", "compression_state_dict.bin"))
    assert weights < parts.held_bytes - cache < 2 * weights
    assert 0 < cache <= CONFIG.cache_bytes


def test_a_gentle_thread_gives_way_alone() -> None:
    """Its priority and its number of threads are lower, and inherited; the caller's stay, as do later threads'."""

    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def nice_of_a_child() -> int:
        found: list[int] = []
        child = threading.Thread(target=lambda: found.append(nice()))
        child.start()
        child.join()
        return found[0]

    before, threads = nice(), torch.get_num_threads()
    assert gently(lambda: (nice() > before, nice_of_a_child() > before, torch.get_num_threads())) == (True, True, 1)
    assert nice() == nice_of_a_child() == before
    assert torch.get_num_threads() == threads
