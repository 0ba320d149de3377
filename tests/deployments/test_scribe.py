"""What a scribe tells: all audio in order and whole, of progress the latest, and never at the stream's expense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from deployments.scribe import Pace, Scribe
from gary.errors import DatabaseUnavailable, LeaseLost
from gary.tasks.music import Length, MusicJob, UploadSource
from gary.tasks.task import Claim, Status, Task

JOB = MusicJob(source=UploadSource(), model="m", prompt_s=1, side="tail", length=Length(seconds=1), seed=0)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLAIM = Claim(task=Task(id="0" * 24, status=Status.GENERATING, job=JOB, created_at=NOW, queued_at=NOW))


class Store:
    """Takes what it is told; each of `failures` is raised by one write, in turn."""

    def __init__(self, failures: list[Exception] | None = None) -> None:
        self.audio: list[tuple[int, int, bytes]] = []
        self.fractions: list[float] = []
        self._failures = failures or []

    async def add_live(self, claim: Claim, take: int, start_sample: int, pcm: bytes) -> None:
        self._fail()
        self.audio.append((take, start_sample, pcm))

    async def set_progress(
        self, claim: Claim, fraction: float, frames_done: int = 0, frames_total: int = 0, eta_s: float | None = None
    ) -> None:
        self._fail()
        assert fraction == frames_done / frames_total
        self.fractions.append(fraction)

    def _fail(self) -> None:
        if self._failures:
            raise self._failures.pop(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  the scribe tells nobody but the store
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("failures", [[], [DatabaseUnavailable("away")]])
async def test_audio_is_told_in_order_and_whole(failures: list[Exception]) -> None:
    """Two takes of stereo, one stretch longer than a document may be; a database that was away is told again."""
    store, long = Store(failures), bytes(range(256)) * (4 * 3000)
    async with Scribe(store, CLAIM, 1.0) as scribe:
        for take in range(2):
            scribe.audio(take, 0, long, 4)
            scribe.audio(take, len(long) // 4, b"last", 4)
        await until(lambda: len(store.audio) == 8)
    for take in range(2):
        told = b""
        for _, start_sample, pcm in (each for each in store.audio if each[0] == take):
            assert start_sample * 4 == len(told)
            assert len(pcm) <= 1 << 20
            told += pcm
        assert told == long + b"last"


async def test_of_progress_the_latest_is_told_when_it_is_due() -> None:
    """A hundred words at once are one write, the last of them, though nothing comes after it."""
    store = Store()
    async with Scribe(store, CLAIM, 0.05) as scribe:
        for done in range(1, 101):
            scribe.progress(done, 200)
        await until(lambda: bool(store.fractions))
    assert store.fractions == [0.5]


async def test_a_lost_claim_ends_the_telling_alone() -> None:
    """The attempt goes on unharmed until the watch ends it; nothing more is told."""
    store = Store([LeaseLost("another's")])
    async with Scribe(store, CLAIM, 0.0) as scribe:
        scribe.audio(0, 0, b"ab", 2)
        scribe.audio(0, 1, b"cd", 2)
        await until(lambda: scribe.ended)
        scribe.progress(1, 2)
    assert (store.audio, store.fractions) == ([], [])


async def test_leaving_ends_it_at_once() -> None:
    """A database that never answers holds nobody up."""

    class Silent(Store):
        async def add_live(self, claim: Claim, take: int, start_sample: int, pcm: bytes) -> None:
            await asyncio.Event().wait()

    async with asyncio.timeout(5), Scribe(Silent(), CLAIM, 1.0) as scribe:
        scribe.audio(0, 0, b"ab", 2)
        await asyncio.sleep(0)
    assert scribe.ended


def test_pace_is_that_of_the_frames_since_the_first() -> None:
    """Nothing is said before there are frames to go by; the time before the first does not count."""
    times_s = iter([0.0, 100.0, 101.0, 103.0])
    pace = Pace(lambda: next(times_s))
    assert [pace.eta_s(done, 100) for done in (0, 10, 20, 55)] == [None, None, 8.0, 3.0]


class Deaf(Store):
    """The first write loses the cancellation that meets it, as pymongo's can before Python 3.12."""

    async def add_live(self, claim: Claim, take: int, start_sample: int, pcm: bytes) -> None:
        await super().add_live(claim, take, start_sample, pcm)
        if len(self.audio) == 1:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)


async def test_it_ends_though_its_cancellation_is_swallowed() -> None:
    """Whoever leaves the block does not wait for ever."""
    store = Deaf()
    async with asyncio.timeout(5):
        async with Scribe(store, CLAIM, 1.0) as scribe:
            scribe.audio(0, 0, b"some", 2)
            await until(lambda: bool(store.audio))
    assert scribe.ended
