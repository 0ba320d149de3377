"""Music jobs: from every source, in every take, what was heard while it was made is what is stored."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gary.audio import codes as code_files
from gary.audio import pcm
from gary.audio.clip import Clip
from gary.audio.codes import Codes, codes_sha256
from gary.audio.crop import fit
from gary.audio.files import encode_wav
from gary.audio.limiter import limit
from gary.audio.pcm import Pcm
from gary.audio.seam import DECLICK_S
from gary.tasks.music import Length, LinkSource, TaskSource, UploadSource
from gary.tasks.task import Status, Task
from tests.deployments.playing import CODECS
from tests.deployments.stage import OTHER_MODEL, Stage, until
from tests.deployments.test_conductor_cancel import HEARD_S
from tests.media import MediaServer

CODEC = CODECS["playing"]
RATE_HZ, FRAME = CODEC.rate_hz, CODEC.frame_samples
FADE_SAMPLES = round(DECLICK_S * RATE_HZ)

# Twenty seconds whose level says which second it is.
SECONDS = Clip(np.repeat(np.arange(20) / 64, RATE_HZ)[None].astype(np.float32), RATE_HZ)
SONG = encode_wav(SECONDS)
NOBODY = TaskSource(task="0" * 24)


@pytest.fixture
def link(media: MediaServer) -> LinkSource:
    url = media.put("/seconds.wav", SONG)
    return LinkSource(url=url, link=url, site="direct", start_s=5)


async def music_of(stage: Stage, task: Task, take: int = 0) -> tuple[Pcm, Codes]:
    made = task.takes[take]
    return pcm.read_wav(await stage.store.read_file(made.wav)), code_files.unpack(
        await stage.store.read_file(made.codes)
    )


def is_completed(task: Task) -> bool:
    assert task.status is Status.COMPLETED, task.error or task.setback
    return True


@pytest.mark.parametrize(("side", "first_s"), [("cursor", 5), ("head", 0), ("tail", 18)])
async def test_a_link_is_gone_on_from_on_every_side(stage: Stage, link: LinkSource, side: str, first_s: int) -> None:
    """The prompt is that of the side, the answer is the model's rendering of it and then the new music, limited."""
    task = await stage.done(await stage.music(link, side=side))
    assert is_completed(task)
    music, codes = await music_of(stage, task)
    prompt = Clip(SECONDS.samples[:, first_s * RATE_HZ : (first_s + 2) * RATE_HZ], RATE_HZ)
    expected = np.concatenate([CODEC.heard(prompt), CODEC.made(7, 100, 250)], axis=1)
    assert np.array_equal(codes.codes, expected)
    assert (codes.codec_sha256, codes.frame_samples, codes.start_sample) == (CODEC.sha256, FRAME, 0)
    assert np.array_equal(music.integers, pcm.to_int16(limit(CODEC.rendered(expected))))
    assert task.sheet is not None
    assert (task.sheet.source_samples, task.sheet.length_samples) == (2 * RATE_HZ, 5 * RATE_HZ)
    assert task.receipt is not None
    assert task.receipt.input_sha256 == prompt.sha256()


async def test_an_upload_is_gone_on_from_in_bars(stage: Stage) -> None:
    """Two bars at 120 bpm are four seconds of new music; what is said about the task agrees with its file."""
    source = UploadSource(name="seconds.wav")
    task = await stage.done(await stage.music(source, upload=SONG, length=Length(bars=2, tempo_bpm=120)))
    assert is_completed(task)
    music, _ = await music_of(stage, task)
    assert music.length_samples == 6 * RATE_HZ
    wav = await stage.store.read_file(task.takes[0].wav)
    assert task.takes[0].wav_sha256 == hashlib.sha256(wav).hexdigest()
    assert wav[:44] == pcm.header(RATE_HZ, 1, 6 * RATE_HZ)
    assert task.result == task.takes[0].wav
    facts = {name: task.facts[name] for name in ("tempo_bpm", "bars", "prompt_s", "duration_s", "seed")}
    assert facts == {"tempo_bpm": 120, "bars": 2, "prompt_s": 2, "duration_s": 6, "seed": 7}
    assert {"fetching_s", "generating_s", "encoding_s"} <= set(task.facts)


async def test_bars_without_a_beat_are_assumed_ones(stage: Stage) -> None:
    """Nothing beats in silence: the bars are those of 120 bpm, and that is said."""
    silence = encode_wav(Clip(np.zeros((1, 4 * RATE_HZ), np.float32), RATE_HZ))
    task = await stage.done(await stage.music(UploadSource(), upload=silence, length=Length(bars=2)))
    assert is_completed(task)
    assert task.sheet is not None
    assert (task.sheet.tempo_assumed, task.sheet.tempo_bpm, task.sheet.bars) == (True, None, 2)
    assert task.sheet.length_samples - task.sheet.source_samples == 4 * RATE_HZ


async def test_a_take_is_what_its_seed_alone_would_make(stage: Stage) -> None:
    """Three takes are three files; each is, byte for byte, that of a job of one take with that seed."""
    task = await stage.done(await stage.music(UploadSource(), upload=SONG, takes=3))
    alone = await stage.done(await stage.music(UploadSource(), upload=SONG, seed=9))
    assert is_completed(task)
    assert is_completed(alone)
    assert [take.seed for take in task.takes] == [7, 8, 9]
    assert len({take.wav_sha256 for take in task.takes}) == 3
    assert task.takes[2].wav_sha256 == alone.takes[0].wav_sha256


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Path]:
    """A file that the engine waits for; there in the end in any case."""
    path = tmp_path / "release"
    yield path
    path.touch()


async def test_what_is_heard_live_is_what_is_stored(stage: Stage, release: Path) -> None:
    """Before the last second is made, all before it can be heard of each take; afterwards the file begins with that."""
    parent = await stage.done(await stage.music(UploadSource(), upload=SONG))
    source = TaskSource(task=parent.id)
    task_id = await stage.music(source, takes=2, description=f"until {release}")
    run = asyncio.create_task(stage.done(task_id))
    heard_samples = 5 * RATE_HZ + 2 * RATE_HZ  # the parent's five seconds and two of three new ones
    heard: list[bytes] = []
    for take in range(2):
        await until(partial(_can_be_heard, stage, task_id, take, heard_samples), f"take {take} to be heard")
        heard.append(await _heard(stage, task_id, take))
    unfinished = await stage.store.get(task_id)
    assert unfinished.sheet is not None
    await until(partial(_has_progress, stage, task_id), "progress")
    release.touch()  # noqa: ASYNC240
    task = await run
    assert is_completed(task)
    for take in range(2):
        wav = await stage.store.read_file(task.takes[take].wav)
        assert wav[:44] == pcm.header(unfinished.sheet.sample_rate_hz, 1, unfinished.sheet.length_samples)
        assert wav[44 : 44 + len(heard[take])] == heard[take]
        assert len(wav) == 44 + 2 * unfinished.sheet.length_samples
        assert await stage.store.live(task_id, task.fence, take, 0) == []


async def _heard(stage: Stage, task_id: str, take: int) -> bytes:
    """What can be heard so far; without a gap."""
    fence, heard = (await stage.store.get(task_id)).fence, bytearray()
    while chunks := await stage.store.live(task_id, fence, take, len(heard) // 2):
        for chunk in chunks:
            assert chunk.start_sample * 2 == len(heard)
            heard += chunk.pcm
    return bytes(heard)


async def _can_be_heard(stage: Stage, task_id: str, take: int, samples: int) -> bool:
    return len(await _heard(stage, task_id, take)) == 2 * samples


async def _has_progress(stage: Stage, task_id: str) -> bool:
    task = await stage.store.get(task_id)
    return task.frames_total == 2 * 150 and 0 < task.frames_done < task.frames_total and task.eta_s is not None


async def test_a_task_goes_on_bit_for_bit_for_generations(stage: Stage) -> None:
    """The child begins with all of its parent, the grandchild with a stretch of the child that ends within a frame.

    New music follows in time: after 10 ms it is the model's own rendering of the codes, which go on from the parent's.
    """
    parent = await stage.done(await stage.music(UploadSource(), upload=SONG, length=Length(seconds=2.99)))
    child = await stage.done(await stage.music(TaskSource(task=parent.id)))
    assert is_completed(child)
    (before, old), (music, codes) = await music_of(stage, parent), await music_of(stage, child)
    assert before.length_samples == round(4.99 * RATE_HZ)  # half a frame is missing
    _continues(music, codes, before, old, start=0, end=before.length_samples)
    assert child.parent == parent.id
    assert child.receipt is not None
    assert child.receipt.input_sha256 == codes_sha256(old.codes[:, 149:249])

    source = TaskSource(task=child.id, start_s=1.037, end_s=5.555)
    grandchild = await stage.done(await stage.music(source, takes=2))
    assert is_completed(grandchild)
    for take in range(2):
        newest, their_codes = await music_of(stage, grandchild, take)
        _continues(newest, their_codes, music, codes, start=51 * FRAME, end=round(5.555 * RATE_HZ))


def _continues(music: Pcm, codes: Codes, before: Pcm, old: Codes, start: int, end: int) -> None:
    """`music` is the stretch of `before` and then three seconds that follow from the codes."""
    kept = end - start
    assert music.length_samples == kept + 3 * RATE_HZ
    assert np.array_equal(music.integers[:kept], before.integers[start:end])
    first, stop = start // FRAME, end // FRAME
    assert np.array_equal(codes.codes[:, : stop - first], old.codes[:, first:stop])
    assert codes.start_sample == 0
    rendered = pcm.to_int16(limit(CODEC.rendered(codes.codes)[:, : music.length_samples]))
    after = kept + FADE_SAMPLES
    assert np.array_equal(music.integers[after:], rendered[after:])
    step = abs(int(music.integers[kept, 0]) - int(music.integers[kept - 1, 0]))
    across = abs(int(rendered[kept, 0]) - int(rendered[kept - 1, 0]))
    assert step <= across + 300  # no more than the rendering itself makes there


async def test_a_model_of_another_codec_goes_on_by_ear(stage: Stage) -> None:
    """It hears the parent's end; the parent is brought to its rate and channels, codes begin with the prompt."""
    parent = await stage.done(await stage.music(UploadSource(), upload=SONG))
    task = await stage.done(await stage.music(TaskSource(task=parent.id), model=OTHER_MODEL.name))
    assert is_completed(task)
    assert task.attempts == 1
    (before, _), (music, codes) = await music_of(stage, parent), await music_of(stage, task)
    other = CODECS["other"]
    assert (music.rate_hz, music.channels, music.length_samples) == (other.rate_hz, 2, 8 * other.rate_hz)
    brought = pcm.to_int16(limit(fit(before.clip(), other.rate_hz, 2).samples))
    assert np.array_equal(music.integers[: 5 * other.rate_hz], brought)
    assert (codes.codec_sha256, codes.start_sample, codes.frames) == (other.sha256, 3 * other.rate_hz, 250)

    grandchild = await stage.done(await stage.music(TaskSource(task=task.id), model=OTHER_MODEL.name))
    assert is_completed(grandchild)
    newest, their_codes = await music_of(stage, grandchild)
    assert np.array_equal(newest.integers[: music.length_samples], music.integers)
    assert np.array_equal(their_codes.codes[:, :250], codes.codes)
    assert their_codes.start_sample == codes.start_sample


async def test_a_task_of_the_old_routes_is_gone_on_from(stage: Stage, link: LinkSource) -> None:
    """It has no codes: its end is heard, its samples are kept bit for bit."""
    parent = await stage.done(await stage.generate(link.url, start_s=5))
    assert is_completed(parent)
    assert parent.result is not None
    before = pcm.read_wav(await stage.store.read_file(parent.result))
    task = await stage.done(await stage.music(TaskSource(task=parent.id, start_s=0.5)))
    assert is_completed(task)
    music, codes = await music_of(stage, task)
    kept = before.integers[RATE_HZ // 2 :]
    assert np.array_equal(music.integers[: len(kept)], kept)
    assert codes.start_sample == len(kept) - 2 * RATE_HZ
    assert task.sheet is not None
    assert (task.sheet.source_samples, task.sheet.prompt_s) == (len(kept), 2)


async def test_a_task_that_is_gone(stage: Stage) -> None:
    """Nothing to go on from: the client is told, at once."""
    task = await stage.done(await stage.music(NOBODY))
    assert task.error is not None
    assert (task.status, task.error.code, task.attempts) == (Status.FAILED, "source_gone", 1)


async def test_a_stretch_that_is_not_in_the_parent(stage: Stage) -> None:
    """It starts after the parent's end."""
    parent = await stage.done(await stage.music(UploadSource(), upload=SONG))
    task = await stage.done(await stage.music(TaskSource(task=parent.id, start_s=5)))
    assert task.error is not None
    assert (task.status, task.error.code) == (Status.FAILED, "past_end")


async def test_music_cancelled_in_mid_generation(stage: Stage, marker: Path) -> None:
    """The engine is told to stop, nothing more is told, and nobody hears what was."""
    task_id = await stage.music(UploadSource(), upload=SONG, description=str(marker))
    run = asyncio.create_task(stage.done(task_id))
    await stage.engine_has(task_id)
    await stage.store.cancel(task_id)
    task = await asyncio.wait_for(run, HEARD_S)
    assert (task.status, task.takes) == (Status.CANCELLED, ())
    await until(partial(_exists, marker), "the engine's stop", HEARD_S)


@pytest.mark.parametrize(("error", "attempts"), [("Aborted", 3), ("MediaError", 1)])
async def test_only_what_may_succeed_is_tried_again(stage: Stage, error: str, attempts: int) -> None:
    """As with the jobs of the old routes."""
    task_id = await stage.music(UploadSource(), upload=SONG, description=error)
    await stage.conductor.run.remote(task_id)
    task = await stage.reached(task_id, Status.COMPLETED, Status.FAILED)
    assert (task.status, task.attempts) == (Status.FAILED, attempts)


async def _exists(path: Path) -> bool:
    return path.exists()  # noqa: ASYNC240
