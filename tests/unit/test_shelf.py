"""Which engines a replica holds: loaded once, evicted only when idle."""

import asyncio
import threading
from collections.abc import AsyncGenerator

import pytest

from gary.audio.clip import Clip
from gary.engine.request import CodePrompt, GenerationEvent, GenerationRequest, ModelCard
from gary.engine.shelf import EngineShelf
from gary.errors import CheckpointError, DeviceError


class IdleEngine:
    """An engine that is only held."""

    sample_rate_hz = 32_000
    channels = 1
    card = ModelCard("", "", "", "fp32", "cpu", sample_rate_hz=32_000, channels=1, frame_samples=640)

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self.closed = False
        self.broken = False

    async def generate(
        self, request: GenerationRequest, prompt: Clip | CodePrompt | None
    ) -> AsyncGenerator[GenerationEvent, None]:
        for event in list[GenerationEvent]():
            yield event

    def abort(self, request_id: str) -> bool:
        return False

    def check_health(self) -> None:
        if self.broken:
            raise DeviceError("broken")

    def close(self) -> None:
        self.closed = True


class Loader:
    """Counts what it loads."""

    def __init__(self) -> None:
        self.loaded: list[IdleEngine] = []

    def __call__(self, checkpoint: str) -> IdleEngine:
        if checkpoint == "missing":
            raise CheckpointError("no such checkpoint")
        self.loaded.append(IdleEngine(checkpoint))
        return self.loaded[-1]


async def test_a_checkpoint_is_loaded_once() -> None:
    """However many ask at the same time."""
    loader = Loader()
    shelf = EngineShelf(loader, 2)

    async def use() -> None:
        async with shelf.use("a"):
            await asyncio.sleep(0)

    await asyncio.gather(*(use() for _ in range(10)))
    assert [engine.checkpoint for engine in loader.loaded] == ["a"]


async def test_the_least_recently_used_goes() -> None:
    loader = Loader()
    shelf = EngineShelf(loader, 2)
    for checkpoint in ("a", "b", "a", "c"):
        async with shelf.use(checkpoint):
            pass
    assert {engine.checkpoint: engine.closed for engine in loader.loaded} == {"a": False, "b": True, "c": False}


async def test_an_engine_in_use_stays() -> None:
    """A request for one more waits until another is idle."""
    loader = Loader()
    shelf = EngineShelf(loader, 1)
    async with shelf.use("a"):
        waiting = asyncio.create_task(shelf.use("b").__aenter__())
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        assert not loader.loaded[0].closed
    assert (await waiting).abort("x") is False
    assert loader.loaded[0].closed


async def test_a_failed_load_is_no_obstacle() -> None:
    """Its error reaches whoever asked, and the place is free again."""
    loader = Loader()
    shelf = EngineShelf(loader, 1)
    for _ in range(2):
        with pytest.raises(CheckpointError):
            async with shelf.use("missing"):
                pass
    async with shelf.use("a") as engine:
        assert engine is loader.loaded[0]


async def test_a_load_does_not_hold_up_those_who_finish() -> None:
    """While one model loads, a request on another ends."""
    release = threading.Event()

    def slow(checkpoint: str) -> IdleEngine:
        if checkpoint == "slow":
            assert release.wait(10)
        return IdleEngine(checkpoint)

    shelf = EngineShelf(slow, 2)
    async with shelf.use("a"):
        loading = asyncio.create_task(shelf.use("slow").__aenter__())
        await asyncio.sleep(0)
    async with asyncio.timeout(5), shelf.use("a"):
        pass
    release.set()
    await loading


async def test_whoever_gives_up_on_a_load_leaves_it_usable() -> None:
    """A load whose only user was cancelled goes on, and its place can be had again once it is done."""
    release = threading.Event()

    def slow(checkpoint: str) -> IdleEngine:
        assert release.wait(10)
        return IdleEngine(checkpoint)

    shelf = EngineShelf(slow, 1)
    asking = asyncio.create_task(shelf.use("a").__aenter__())
    await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    other = asyncio.create_task(shelf.use("b").__aenter__())
    shelf.check_health()
    release.set()
    async with asyncio.timeout(5):
        await other


async def test_health_is_that_of_all() -> None:
    loader = Loader()
    shelf = EngineShelf(loader, 2)
    async with shelf.use("a"), shelf.use("b"):
        shelf.check_health()
        loader.loaded[1].broken = True
        with pytest.raises(DeviceError):
            shelf.check_health()
    shelf.close()
    assert all(engine.closed for engine in loader.loaded)


async def test_the_one_used_last_is_known() -> None:
    """None before anything is loaded; then the checkpoint of the latest request."""
    shelf = EngineShelf(Loader(), 2)
    assert shelf.last_used is None
    for name in ("a", "b", "a"):
        async with shelf.use(name):
            assert shelf.last_used == name
