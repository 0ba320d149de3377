"""What is tried again and what is not, how often, and who begins the next attempt."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from gary.config import DatabaseConfig
from gary.errors import DeviceError
from gary.tasks.store import TaskStore
from gary.tasks.task import Status
from tests.deployments.stage import TASKS, Stage, children, new_continuation, staged, until
from tests.media import MediaServer
from tests.running import replica_pids

OVER = (Status.COMPLETED, Status.FAILED)


@pytest.mark.parametrize(
    ("error", "code", "attempts"),
    [
        ("DeviceError", "device_failed", 3),
        ("Aborted", "aborted", 3),  # by an engine that is being replaced
        ("CheckpointError", "checkpoint", 1),
        ("MediaError", "not_audio", 1),
        ("__name__", "internal", 1),  # no error of the tree: a bug
    ],
)
async def test_only_what_may_succeed_is_tried_again(stage: Stage, error: str, code: str, attempts: int) -> None:
    """Each attempt is begun by the conductor when its wait is over; the sweep of this stage comes once an hour.

    The last failure is told by its own code, with the number of attempts where there were several.
    """
    task_id = await stage.continue_(error)
    await stage.conductor.run.remote(task_id)
    task = await stage.reached(task_id, *OVER)
    assert task.error is not None
    assert (task.status, task.error.code, task.attempts) == (Status.FAILED, code, attempts)
    assert ("after 3 attempts" in task.error.message) == (attempts == 3)


async def test_a_source_that_does_not_answer_is_tried_again(stage: Stage) -> None:
    """Nobody listens at the link: that may change, so it is asked three times, and then told as what it is."""
    task_id = await stage.generate("http://127.0.0.1:1/song.wav")
    await stage.conductor.run.remote(task_id)
    first = await stage.store.get(task_id)
    assert (first.status, first.attempts) in [(Status.QUEUED, 1), (Status.FETCHING, 2)]
    assert first.setback is not None
    task = await stage.reached(task_id, *OVER)
    assert task.error is not None
    assert (task.status, task.error.code, task.attempts) == (Status.FAILED, first.setback.code, 3)
    assert task.error.code in {"upstream", "timeout"}


async def test_a_source_that_is_not_there_is_not_tried_again(stage: Stage, media: MediaServer) -> None:
    """A link to nothing is the client's fault."""
    task_id = await stage.generate(f"http://{media.host}/nothing-here.wav")
    await stage.conductor.run.remote(task_id)
    task = await stage.store.get(task_id)
    assert task.error is not None
    assert (task.status, task.error.code, task.attempts) == (Status.FAILED, "removed", 1)


async def test_the_sweep_begins_what_nobody_else_does(ray_running: None, uri: str, media: MediaServer) -> None:
    """Tasks that nobody begins are done all the same: one that just waits, one that a conductor released and one that
    it held, before it died."""
    tasks = TASKS.model_copy(update={"sweep_s": 0.2, "lease_s": 0.5})
    database = DatabaseConfig(uri=uri, name="swept")
    before = TaskStore(uri, database, tasks)
    ids = [await new_continuation(before) for _ in range(3)]
    for task_id in ids[1:]:
        claim = await before.claim(task_id, "a conductor that dies")
        assert claim is not None
        if task_id == ids[1]:
            await before.release(claim, DeviceError("gone"))
    await before.close()
    async with staged(database, media, tasks, "swept") as stage:
        done = [await stage.reached(task_id, *OVER) for task_id in ids]
    assert [(task.status, task.attempts) for task in done] == [(Status.COMPLETED, n) for n in (1, 2, 2)]


async def test_a_fetcher_that_is_killed_leaves_nothing_for_long(stage: Stage, media: MediaServer) -> None:
    """SIGKILL in mid-download: the download dies with it, the next replica clears its directory, the task is done."""
    url = media.put("/kill.wav", encode_wav(Clip(np.full((1, 32_000 * 8), 0.25, np.float32), 32_000)))
    release = media.hold("/kill.wav")
    try:
        task_id = await stage.generate(url)
        run = asyncio.ensure_future(_run(stage, task_id))
        assert await asyncio.to_thread(media.wait_until_asked, "/kill.wav", 60)
        (fetcher,) = replica_pids("Fetcher", "stage")
        downloads = [child for child in children("Fetcher") if "gary-fetch-" in child.cwd()]
        directories = {Path(child.cwd()) for child in downloads}
        assert directories
        os.kill(fetcher, signal.SIGKILL)
    finally:
        release.set()
    await run
    assert (await stage.reached(task_id, *OVER)).status is Status.COMPLETED
    await until(lambda: _are_gone(downloads, directories), "the end of what was left behind")


async def _run(stage: Stage, task_id: str) -> None:
    await stage.conductor.run.remote(task_id)


async def _are_gone(processes: list[psutil.Process], directories: set[Path]) -> bool:
    return not any(process.is_running() for process in processes) and not any(path.exists() for path in directories)
