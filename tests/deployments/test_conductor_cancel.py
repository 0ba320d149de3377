"""A task that was cancelled, or given another job, stops whatever is done for it, and nothing of it is left."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from time import monotonic

import numpy as np
import psutil
import pytest

from gary.audio.clip import Clip
from gary.audio.files import encode_mp3, encode_wav
from gary.tasks.task import ContinueJob, Status
from tests.deployments.stage import Stage, children, temporary_files, until
from tests.media import MediaServer

# watch_s and an answer of each process on the way, or two: Ray asks again after 2 s where a replica did not heed a
# cancellation. By the lease alone it would be 20 s.
HEARD_S = 5.0


@pytest.fixture
def song(media: MediaServer) -> str:
    return media.put("/song.wav", encode_wav(Clip(np.full((1, 32_000 * 8), 0.25, np.float32), 32_000)))


async def _ends(run: asyncio.Task[None]) -> float:
    """Seconds until the conductor's call has ended."""
    began_s = monotonic()
    await asyncio.wait_for(run, HEARD_S)
    return monotonic() - began_s


def _started(stage: Stage, task_id: str) -> asyncio.Task[None]:
    async def run() -> None:
        await stage.conductor.run.remote(task_id)

    return asyncio.create_task(run())


async def _runs(deployment: str, program: str) -> bool:
    return any(program in " ".join(child.cmdline()) for child in children(deployment))


async def _is_idle(deployment: str) -> bool:
    return not children(deployment) and not temporary_files(deployment)


async def test_cancelled_in_mid_download(stage: Stage, media: MediaServer, song: str) -> None:
    """The downloading process is gone and its directory with it; the calls that waited for it are gone too."""
    url = song.replace("/song.wav", "/held.wav")
    release = media.hold("/held.wav")
    try:
        task_id = await stage.generate(url)
        run = _started(stage, task_id)
        assert await asyncio.to_thread(media.wait_until_asked, "/held.wav", 60)
        downloads = [child for child in children("Fetcher") if "gary-fetch-" in child.cwd()]
        directories = {Path(child.cwd()) for child in downloads}
        assert directories
        await stage.store.cancel(task_id)
        await _ends(run)
        await until(partial(_is_idle, "Fetcher"), "the end of the download", HEARD_S)
        assert not any(directory.exists() for directory in directories)
        assert not any(psutil.pid_exists(child.pid) for child in downloads)
    finally:
        release.set()
    assert await _is_idle("Cropper")
    assert (await stage.store.get(task_id)).status is Status.CANCELLED


async def test_cancelled_in_mid_decode(stage: Stage, media: MediaServer) -> None:
    """ffmpeg is killed in the middle of six hours, which take it 10 s and more, and its file is gone."""
    ten_minutes = await encode_mp3(Clip(np.zeros((1, 32_000 * 600), np.float32), 32_000))
    url = media.put("/long.mp3", ten_minutes * 36, "audio/mpeg")
    task_id = await stage.generate(url, start_s=6 * 3600 - 60)
    run = _started(stage, task_id)
    await until(partial(_runs, "Cropper", "ffmpeg"), "ffmpeg at work")
    assert temporary_files("Cropper")
    await stage.store.cancel(task_id)
    await _ends(run)
    await until(partial(_is_idle, "Cropper"), "the end of ffmpeg", HEARD_S)
    assert (await stage.store.get(task_id)).status is Status.CANCELLED


async def test_cancelled_in_mid_generation(stage: Stage, song: str, marker: Path) -> None:
    """The engine is told to stop, and the replica of the next task is free."""
    task_id = await stage.generate(song, description=str(marker))
    run = _started(stage, task_id)
    await stage.engine_has(task_id)
    await stage.store.cancel(task_id)
    await _ends(run)
    await until(lambda: _exists(marker), "the engine's stop", HEARD_S)
    another = await stage.continue_()
    await _started(stage, another)
    assert (await stage.store.get(another)).status is Status.COMPLETED


async def test_a_new_job_stops_the_old_one(stage: Stage, song: str, marker: Path) -> None:
    """A restart in mid-generation: the old attempt ends unheard, the new job is done, by the same conductor even."""
    task_id = await stage.generate(song, description=str(marker))
    old = _started(stage, task_id)
    await stage.engine_has(task_id)
    clip = Clip(np.full((1, 32_000), 0.25, np.float32), 32_000)
    job = ContinueJob(url=song, model="playing", prompt_s=0.5, length_s=2, seed=1)
    await stage.store.restart(task_id, job, encode_wav(clip))
    await asyncio.gather(_ends(old), _started(stage, task_id))
    await until(lambda: _exists(marker), "the engine's stop", HEARD_S)
    task = await stage.store.get(task_id)
    assert (task.status, task.job, task.attempts) == (Status.COMPLETED, job, 1)


async def test_many_are_heard_of_by_one_watch(stage: Stage, tmp_path: Path) -> None:
    """Six tasks at once, three of them cancelled, later a fourth: those four stop, and the others go on."""
    ids = [await stage.continue_(str(tmp_path / f"stopped-{number}")) for number in range(6)]
    runs = [_started(stage, task_id) for task_id in ids]
    await asyncio.gather(*(stage.engine_has(task_id) for task_id in ids))
    for task_id in ids[:3]:
        await stage.store.cancel(task_id)
    await asyncio.gather(*map(_ends, runs[:3]))
    await stage.store.cancel(ids[3])
    await _ends(runs[3])  # so the watch has looked once more
    assert not any(run.done() for run in runs[4:])
    await until(lambda: _stopped(tmp_path, 4), "four stopped", HEARD_S)
    for task_id in ids[4:]:
        await stage.store.cancel(task_id)
    await asyncio.gather(*map(_ends, runs[4:]))
    await until(lambda: _stopped(tmp_path, 6), "all stopped", HEARD_S)


async def _stopped(directory: Path, count: int) -> bool:
    return sorted(os.listdir(directory)) == [f"stopped-{number}" for number in range(count)]


async def _exists(path: Path) -> bool:
    return path.exists()  # noqa: ASYNC240
