"""Live audio in the task store: read as it is made, by the present claim's fence alone, and gone when all is made."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gary.config import DatabaseConfig, TasksConfig
from gary.errors import DeviceError, InvalidInput, MediaError
from gary.tasks.live import BATCH
from gary.tasks.store import LiveChunk, TaskStore
from gary.tasks.task import Claim, Status
from tests.unit.storing import (
    CONTINUE,
    MADE,
    QUICK_LEASE,
    RECEIPT,
    SHEET,
    Database,
    composing,
    is_claimable,
    opened,
    until,
)

FRAME_BYTES = 2 * SHEET.channels
SECOND = bytes(range(FRAME_BYTES)) * 10


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8), data=st.data())
async def test_what_is_there_is_heard_from_any_sample_on(
    store: TaskStore, lengths: list[int], data: st.DataObject
) -> None:
    """However the samples were cut into chunks: those from there on, in order, without gap or overlap.

    In the midst of the last chunk nothing is told before the next one is there.
    """
    claim = await composing(store)
    start = 0
    whole = b""
    for number, length in enumerate(lengths):
        pcm = bytes([number]) * (length * FRAME_BYTES)
        await store.add_live(claim, 0, start, pcm)
        whole += pcm
        start += length
    last_start = start - lengths[-1]
    from_sample = data.draw(st.integers(0, last_start))
    chunks = await store.live(claim.task.id, claim.fence, 0, from_sample)
    assert chunks[0].start_sample == from_sample
    assert b"".join(chunk.pcm for chunk in chunks) == whole[from_sample * FRAME_BYTES :]
    beyond = data.draw(st.integers(last_start + 1, start + 2))
    assert await store.live(claim.task.id, claim.fence, 0, beyond) == []


async def test_much_is_heard_in_parts(store: TaskStore) -> None:
    """A late listener gets a bounded number of chunks at once, and the rest by asking on."""
    claim = await composing(store)
    for number in range(BATCH + 3):
        await store.add_live(claim, 0, number * 10, SECOND)
    first = await store.live(claim.task.id, claim.fence, 0, 0)
    rest = await store.live(claim.task.id, claim.fence, 0, BATCH * 10)
    assert [chunk.start_sample for chunk in first + rest] == [number * 10 for number in range(BATCH + 3)]
    assert len(first) == BATCH


async def test_where_a_chunk_is_missing_nothing_is_made_up(store: TaskStore) -> None:
    """From within the gap nothing is told: the finished file alone has it."""
    claim = await composing(store)
    await store.add_live(claim, 0, 0, SECOND)
    await store.add_live(claim, 0, 20, SECOND)
    assert await store.live(claim.task.id, claim.fence, 0, 10) == []
    assert await store.live(claim.task.id, claim.fence, 0, 15) == []
    assert await store.live(claim.task.id, claim.fence, 0, 20) == [LiveChunk(20, SECOND)]


async def test_each_take_and_each_claim_is_heard_apart(uri: str, config: DatabaseConfig) -> None:
    """What a worker adds that has lost its task is not heard by those who listen to the present one."""
    async with opened(uri, config, QUICK_LEASE) as store:
        first = await composing(store)
        task_id = first.task.id
        await until(lambda: is_claimable(store, task_id))
        second = await composing(store, task_id)
        await store.add_live(first, 0, 0, b"stale" * 2)
        await store.add_live(second, 0, 0, SECOND)
        await store.add_live(second, 1, 0, SECOND[::-1])
        assert await store.live(task_id, second.fence, 0, 0) == [LiveChunk(0, SECOND)]
        assert await store.live(task_id, second.fence, 1, 0) == [LiveChunk(0, SECOND[::-1])]
        assert await store.live(task_id, second.fence, 2, 0) == []


async def test_a_chunk_added_again_is_heard_once(store: TaskStore) -> None:
    """A worker whose answer was lost may add it again."""
    claim = await composing(store)
    for _ in range(2):
        await store.add_live(claim, 0, 0, SECOND)
    assert await store.live(claim.task.id, claim.fence, 0, 0) == [LiveChunk(0, SECOND)]


async def test_only_an_id_is_listened_to(store: TaskStore) -> None:
    """A malformed id is the client's fault."""
    with pytest.raises(InvalidInput):
        await store.live("x", 1, 0, 0)


@pytest.mark.parametrize("end", ["finish", "fail", "last attempt", "lost for good", "cancel", "restart", "next claim"])
async def test_live_audio_goes_when_its_claim_is_over(
    uri: str, config: DatabaseConfig, raw: Database, end: str
) -> None:
    """However it ends, no chunk is left behind; another task's stay."""
    tasks = TasksConfig(backoff_s=0, lease_s=0.05, max_attempts=2 if end == "next claim" else 1)
    async with opened(uri, config, tasks) as store:
        claim, other = await composing(store), await composing(store)
        for one in (claim, other):
            await store.add_live(one, 0, 0, SECOND)
        await _end(store, claim, end)
        assert await store.live(claim.task.id, claim.fence, 0, 0) == []
        assert await store.live(other.task.id, other.fence, 0, 0) == [LiveChunk(0, SECOND)]
        assert await raw["live"].count_documents({}) == 1


async def _end(store: TaskStore, claim: Claim, end: str) -> None:
    match end:
        case "finish":
            await store.advance(claim, Status.ENCODING)
            await store.finish_music(claim, MADE, RECEIPT)
        case "fail":
            await store.fail(claim, MediaError("no"))
        case "cancel":
            await store.cancel(claim.task.id)
        case "restart":
            await store.restart(claim.task.id, CONTINUE, b"upload")
        case "last attempt":
            assert await store.release(claim, DeviceError("gone")) is None
        case _:
            await until(partial(is_claimable, store, claim.task.id))
            assert (await store.claim(claim.task.id, "another") is None) == (end == "lost for good")


async def test_what_nobody_drops_goes_in_time(uri: str, config: DatabaseConfig, raw: Database) -> None:
    """The database removes chunks so long after their claim, and the time is its own."""
    async with opened(uri, config, TasksConfig(live_ttl_s=3600)) as store:
        claim = await composing(store)
        assert claim.task.lease is not None
        await store.add_live(claim, 0, 0, SECOND)
        (chunk,) = await raw["live"].find().to_list()
        assert chunk["expires_at"] == claim.task.lease.until + timedelta(hours=1)
        await raw["live"].update_one({}, {"$set": {"expires_at": claim.task.lease.until - timedelta(hours=1)}})
        await raw.client.admin.command("secantusAdmin.pruneTtl")  # what the server does by itself, but each minute
        assert await store.live(claim.task.id, claim.fence, 0, 0) == []
