"""Which engines a replica holds: loaded once, evicted only when idle."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from random import Random

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

    def __init__(self, checkpoint: str, held_bytes: int = 1) -> None:
        self.checkpoint = checkpoint
        self.held_bytes = held_bytes
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
    """Notes what it loads; an engine takes one byte unless `sizes_bytes` says otherwise."""

    def __init__(self, **sizes_bytes: int) -> None:
        self.loaded: list[IdleEngine] = []
        self._sizes_bytes = sizes_bytes

    def __call__(self, checkpoint: str) -> IdleEngine:
        if checkpoint == "missing":
            raise CheckpointError("no such checkpoint")
        self.loaded.append(IdleEngine(checkpoint, self._sizes_bytes.get(checkpoint, 1)))
        return self.loaded[-1]

    @property
    def names(self) -> list[str]:
        return [engine.checkpoint for engine in self.loaded]

    @property
    def left(self) -> set[str]:
        return {engine.checkpoint for engine in self.loaded if not engine.closed}


async def touch(shelf: EngineShelf, *checkpoints: str) -> None:
    """Uses each for a moment, one after the other."""
    for checkpoint in checkpoints:
        async with shelf.use(checkpoint):
            pass


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
    """None before anything is loaded; then that of the latest request, which asking does not change."""
    shelf = EngineShelf(Loader(), 2)
    with shelf.hold_last() as none:
        assert none is None
    for name in ("a", "b", "a"):
        await touch(shelf, name)
        with shelf.hold_last() as engine:
            assert isinstance(engine, IdleEngine)
            assert engine.checkpoint == name
    assert shelf.resident == ("b", "a")


async def test_what_is_held_last_stays() -> None:
    """A health check's engine is in use as long as the check takes."""
    loader = Loader()
    shelf = EngineShelf(loader, 1)
    await touch(shelf, "a")
    with shelf.hold_last():
        waiting = asyncio.create_task(touch(shelf, "b"))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        assert loader.left == {"a"}
    await waiting


async def test_the_budget_is_of_bytes() -> None:
    """As many stay as fit, by what they take once they are loaded."""
    loader = Loader(a=4, b=3, c=3)
    shelf = EngineShelf(loader, 11)
    await touch(shelf, "a", "b", "c")
    assert loader.left == {"a", "b", "c"}
    assert shelf.held_bytes == 10
    await touch(shelf, "d")
    assert loader.left == {"b", "c", "d"}


async def test_what_was_never_loaded_counts_as_the_largest() -> None:
    """Until it is known, room is made for a model of the replica's own size."""
    loader = Loader(a=4, b=2)
    shelf = EngineShelf(loader, 7)
    await touch(shelf, "a", "b")
    assert loader.left == {"b"}
    await touch(shelf, "a")
    assert loader.left == {"a", "b"}


async def test_the_pinned_one_is_the_last_to_go() -> None:
    """Fine-tunes come and go beside the base, however long it has not been used."""
    loader = Loader()
    shelf = EngineShelf(loader, 2, pinned="base")
    await touch(shelf, "base", "a", "b", "c")
    assert loader.names == ["base", "a", "b", "c"]
    assert loader.left == {"base", "c"}


async def test_the_pinned_one_goes_where_nothing_fits_beside_it() -> None:
    """One engine is always allowed: with no budget they take turns."""
    loader = Loader()
    shelf = EngineShelf(loader, 0, pinned="base")
    await touch(shelf, "base", "a", "base")
    assert loader.names == ["base", "a", "base"]
    assert loader.left == {"base"}


async def test_whoever_waits_long_gets_room() -> None:
    """Requests that follow each other without a gap would hold their engine for ever; after the patience they wait."""
    loader, now_s = Loader(), [0.0]
    shelf = EngineShelf(loader, 1, patience_s=20, clock_s=lambda: now_s[0])
    first = shelf.use("a")
    await first.__aenter__()
    waiting = asyncio.create_task(touch(shelf, "b"))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await touch(shelf, "a")  # there is patience left
    now_s[0] = 21.0
    late = asyncio.create_task(touch(shelf, "a"))
    done, _ = await asyncio.wait([waiting, late], timeout=0.05)
    assert not done
    await first.__aexit__(None, None, None)
    async with asyncio.timeout(5):
        await asyncio.gather(waiting, late)
    assert loader.names == ["a", "b", "a"]


async def test_loads_come_one_at_a_time() -> None:
    """However many models are asked for at once: a load disturbs those who decode, two would do so twice."""
    loading, most = [0], [0]
    lock = threading.Lock()

    def start(checkpoint: str) -> IdleEngine:
        with lock:
            loading[0] += 1
            most[0] = max(most[0], loading[0])
        engine = IdleEngine(checkpoint)
        with lock:
            loading[0] -= 1
        return engine

    shelf = EngineShelf(start, 8)
    await asyncio.gather(*(touch(shelf, name) for name in "abcdefgh"))
    assert most == [1]


async def test_no_history_breaks_the_budget() -> None:
    """Many requests in any order: never more than fits, never closed in use, everybody is served, nothing is left."""
    loader = Loader(a=4, b=3, c=2, d=3)
    shelf = EngineShelf(loader, 8, pinned="a", patience_s=0.005)
    await touch(shelf, "a", "b", "c", "d")
    chance = Random(7)

    async def one(checkpoint: str, turns: int) -> None:
        async with shelf.use(checkpoint) as engine:
            for _ in range(turns):
                await asyncio.sleep(0)
                assert isinstance(engine, IdleEngine)
                assert not engine.closed
                assert shelf.held_bytes <= 8

    async with asyncio.timeout(20):
        await asyncio.gather(*(one(chance.choice("abcd"), chance.randrange(9)) for _ in range(300)))
    assert sum(engine.held_bytes for engine in loader.loaded if not engine.closed) == shelf.held_bytes <= 8
