"""What workers do with the task store: claims, leases, stages, fences, further attempts."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from gary.config import DatabaseConfig, TasksConfig
from gary.errors import (
    DeviceError,
    FatalError,
    GaryError,
    LeaseLost,
    MediaError,
    ModelAway,
    SourceUnavailable,
)
from gary.tasks.store import TaskStore
from gary.tasks.task import Claim, Status, TaskError
from tests.unit.storing import (
    CONTINUE,
    GENERATE,
    QUICK_LEASE,
    Database,
    audio_of,
    claimed,
    encoding,
    is_claimable,
    opened,
    stored,
    until,
)


async def test_exactly_one_of_many_claims_wins(uri: str, config: DatabaseConfig) -> None:
    """Two clients, forty claims at once, ten times over."""
    async with opened(uri, config) as one, opened(uri, config) as other:
        for _ in range(10):
            task_id = await one.create(GENERATE)
            claims = await asyncio.gather(*(store.claim(task_id, "w") for store in (one, other) for _ in range(20)))
            (won,) = [claim for claim in claims if claim is not None]
            task = await one.get(task_id)
            assert (task.status, task.attempts, task.fence) == (Status.FETCHING, 1, won.fence)
            assert task.lease is not None
            assert task.lease.owner == "w"


async def test_a_lost_worker_s_task_goes_to_another_and_its_writes_are_refused(
    uri: str, config: DatabaseConfig, raw: Database
) -> None:
    """A lease runs out; the next claim is the next attempt; all that the first worker writes is refused."""
    async with opened(uri, config, QUICK_LEASE) as store:
        first = await encoding(store)
        task_id = first.task.id
        await until(lambda: is_claimable(store, task_id))
        second = await encoding(store, task_id)
        assert (second.task.attempts, second.fence) == (2, first.fence + 1)
        for write in (
            store.renew(first),
            store.advance(first, Status.ENCODING),
            store.set_progress(first, 0.9),
            store.record(first, {"bars": 1}),
            store.finish(first, b"stale"),
            store.fail(first, MediaError("no")),
            store.release(first, DeviceError("x")),
        ):
            with pytest.raises(LeaseLost):
                await write
        assert await stored(raw) == (0, 0, 0)
        await store.finish(second, b"fresh")
        task = await store.get(task_id)
        assert (task.status, task.progress, task.facts, task.error) == (Status.COMPLETED, 1.0, {}, None)
        assert await audio_of(store, task) == b"fresh"


async def test_a_renewed_lease_keeps_the_task(uri: str, config: DatabaseConfig) -> None:
    """A claim that saw the old lease run out loses to the worker that renewed it in between."""
    async with opened(uri, config, QUICK_LEASE) as store, opened(uri, config) as patient:
        claim = await claimed(store)
        await until(lambda: is_claimable(store, claim.task.id))
        await patient.renew(claim)
        assert not await is_claimable(store, claim.task.id)
        assert await store.claim(claim.task.id, "another") is None
        await store.set_progress(claim, 0.5)
        assert (await store.get(claim.task.id)).progress == 0.5


async def test_a_claim_and_a_renewal_at_once_do_not_both_win(uri: str, config: DatabaseConfig) -> None:
    """A worker gets through to a task whose lease has run out just as others claim it: either it or one of them."""
    async with opened(uri, config, TasksConfig(lease_s=0.001)) as store, opened(uri, config) as patient:
        for _ in range(30):
            claim = await claimed(store)
            task_id = claim.task.id
            await until(partial(is_claimable, store, task_id))
            outcomes = await asyncio.gather(
                patient.renew(claim), *(patient.claim(task_id, "other") for _ in range(5)), return_exceptions=True
            )
            renewed = not isinstance(outcomes[0], LeaseLost)
            won = [outcome for outcome in outcomes[1:] if isinstance(outcome, Claim)]
            assert len(won) + renewed == 1
            await store.cancel(task_id)


async def test_a_task_tells_what_its_worker_tells(store: TaskStore) -> None:
    """Stages, progress and facts are seen as they are written; facts add up and stay under their names."""
    claim = await claimed(store)
    await store.record(claim, {"title": "$set a.b", "tempo_bpm": 174.0})
    await store.advance(claim, Status.GENERATING)
    await store.set_progress(claim, 0.25)
    await store.record(claim, {"bars": 12})
    task = await store.get(claim.task.id)
    assert (task.status, task.progress) == (Status.GENERATING, 0.25)
    assert task.facts == {"title": "$set a.b", "tempo_bpm": 174.0, "bars": 12}
    await store.advance(claim, Status.ENCODING)
    await store.finish(claim, b"wav", {"timings_s": {"fetching": 1.5}})
    task = await store.get(claim.task.id)
    assert task.facts["timings_s"] == {"fetching": 1.5}
    assert task.facts["bars"] == 12


async def test_a_stage_cannot_be_skipped(store: TaskStore, raw: Database) -> None:
    """Encoding before generating and finishing before encoding are refused, change nothing and leave no file."""
    claim = await claimed(store)
    with pytest.raises(FatalError) as caught:
        await store.advance(claim, Status.ENCODING)
    assert caught.value.code == "illegal_transition"
    with pytest.raises(FatalError):
        await store.finish(claim, b"early")
    assert (await store.get(claim.task.id)).status is Status.FETCHING
    assert await stored(raw) == (0, 0, 0)


async def test_a_step_repeated_is_no_error(store: TaskStore) -> None:
    """A worker whose answer was lost may say the same again."""
    claim = await claimed(store)
    for _ in range(2):
        await store.advance(claim, Status.GENERATING)
    assert (await store.get(claim.task.id)).status is Status.GENERATING


async def test_a_released_task_waits_and_is_tried_again_until_attempts_run_out(
    uri: str, config: DatabaseConfig
) -> None:
    """Nobody gets it before its time; after max_attempts it has failed for the last reason, and says how often."""
    async with opened(uri, config, TasksConfig(max_attempts=2, backoff_s=0.2)) as store:
        first = await claimed(store)
        task_id = first.task.id
        wait_s = await store.release(first, DeviceError("The device is gone."))
        assert wait_s is not None
        assert 0.1 <= wait_s <= 0.2
        assert await store.claim(task_id, "worker") is None
        task = await store.get(task_id)
        assert task.setback == TaskError(code="device_failed", message="The device is gone.")
        await until(lambda: is_claimable(store, task_id))
        second = await claimed(store, task_id)
        assert second.task.attempts == 2
        assert await store.release(second, SourceUnavailable("The site is busy.", "rate_limited")) is None
        task = await store.get(task_id)
        assert task.status is Status.FAILED
        assert task.error is not None
        assert task.error.code == "rate_limited"
        assert task.error.message == "The site is busy; given up after 2 attempts"
        assert None not in (task.finished_at, task.expires_at)
        assert await store.claimable(limit=1) == []


async def test_a_task_waits_for_its_model_without_spending_attempts(uri: str, config: DatabaseConfig) -> None:
    """However often no replica has it; what it spent for other reasons stays spent, and its patience ends."""
    async with opened(uri, config, TasksConfig(max_attempts=2, backoff_s=0)) as store:
        first = await claimed(store)
        task_id = first.task.id
        assert await store.release(first, DeviceError("The device is gone.")) == 0
        second = await claimed(store, task_id)
        wait_s = await store.release(second, ModelAway("No replica has it."))
        assert wait_s is not None
        assert wait_s > 1
        task = await store.get(task_id)
        assert (task.status, task.attempts) == (Status.QUEUED, 1)
        assert task.setback == TaskError(code="model_away", message="No replica has it.")
    async with opened(uri, config, TasksConfig(model_patience_s=0)) as store:
        another = await claimed(store)
        assert await store.release(another, ModelAway("No replica has it.")) is None
        task = await store.get(another.task.id)
        assert task.error is not None
        assert (task.status, task.error.code) == (Status.FAILED, "model_away")


@pytest.mark.parametrize("reason", [None, DeviceError("the device is gone")], ids=repr)
async def test_attempts_whose_worker_was_lost_count(uri: str, config: DatabaseConfig, reason: GaryError | None) -> None:
    """A task that takes its workers with it fails in the end: for the reason last heard of, or as exhausted."""
    async with opened(uri, config, TasksConfig(lease_s=0.05, max_attempts=2, backoff_s=0)) as store:
        task_id = await store.create(GENERATE)
        for _ in range(2):
            await until(lambda: is_claimable(store, task_id))
            claim = await claimed(store, task_id)
            if reason is not None and claim.task.attempts == 1:
                await store.release(claim, reason)
        await until(lambda: is_claimable(store, task_id))
        assert await store.claim(task_id, "worker") is None
        task = await store.get(task_id)
        assert task.status is Status.FAILED
        assert task.error is not None
        assert task.error.code == ("attempts_exhausted" if reason is None else "device_failed")
        assert "after 2 attempts" in task.error.message


async def test_an_owner_sees_which_tasks_are_still_its_own(store: TaskStore) -> None:
    """Of tasks in its hands those remain that were not cancelled, restarted, finished, released or another's."""
    kept, cancelled, restarted, finished, released = [await encoding(store) for _ in range(5)]
    another = await store.claim(await store.create(GENERATE), "another")
    assert another is not None
    assert len(await store.held("worker")) == 5
    await store.cancel(cancelled.task.id)
    await store.restart(restarted.task.id, CONTINUE, b"upload")
    await store.finish(finished, b"wav")
    await store.release(released, DeviceError("gone"))
    assert await store.held("worker") == {kept.task.id: kept.fence}
    again = await claimed(store, restarted.task.id)
    assert await store.held("worker") == {kept.task.id: kept.fence, again.task.id: again.fence}
    assert again.fence > restarted.fence


async def test_a_failure_is_told_with_code_and_sentence(store: TaskStore) -> None:
    """The error of the tree is found in the task, which is over."""
    claim = await claimed(store)
    await store.fail(claim, MediaError("this is no audio"), {"title": "x"})
    task = await store.get(claim.task.id)
    assert task.status is Status.FAILED
    assert task.error is not None
    assert (task.error.code, task.error.message) == ("not_audio", "this is no audio")
    assert task.facts == {"title": "x"}
    assert task.lease is None
    assert await store.claim(task.id, "worker") is None
