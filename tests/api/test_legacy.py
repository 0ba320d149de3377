"""The old routes: what is accepted, what it becomes, and what the answers look like."""

import base64
import io
from typing import Any

import pytest
import soundfile

from gary.audio.files import encode_wav
from gary.errors import SourceError
from gary.tasks.task import ContinueJob, GenerateJob, Status
from tests.api.conftest import Api, tone, wav64


async def _completed(api: Api, wav: bytes, facts: dict[str, Any] | None = None) -> str:
    """A task that a worker has brought to its end."""
    task_id = str((await api.generate()).json()["task_id"])
    claim = await api.store.claim(task_id, "test")
    assert claim is not None
    await api.store.advance(claim, Status.GENERATING)
    await api.store.advance(claim, Status.ENCODING)
    await api.store.finish(claim, wav, facts or {})
    return task_id


async def test_generate_becomes_a_task(api: Api) -> None:
    """The contract's defaults and today's parameters; numbers may be strings; work on it begins."""
    answer = await api.generate(promptLength="6", duration="16-18")
    assert (answer.status_code, set(answer.json())) == (200, {"task_id"})
    task_id = answer.json()["task_id"]
    task = await api.store.get(task_id)
    job = task.job
    assert isinstance(job, GenerateJob)
    assert (job.model, job.prompt_s, job.min_s, job.max_s, job.start_s) == ("facebook/musicgen-small", 6, 16, 18, 12)
    assert (job.site, job.link) == ("youtube", "https://www.youtube.com/watch?v=dQw4w9WgXcQ")
    assert (job.sampling.top_k, job.sampling.cfg_coef, job.sampling.temperature) == (150, 5.0, 1.0)
    assert (job.description, job.seed) == ("drums, percussion", 7)
    assert api.begun == [task_id]


async def test_a_list_beside_the_video_is_dropped(api: Api) -> None:
    answer = await api.generate(url="https://www.youtube.com/watch?v=dQw4w9WgXcQ&list=PLx&index=3&t=42")
    job = (await api.store.get(answer.json()["task_id"])).job
    assert isinstance(job, GenerateJob)
    assert job.link == "https://www.youtube.com/watch?v=dQw4w9WgXcQ"


@pytest.mark.parametrize("status", [Status.QUEUED, Status.FETCHING, Status.GENERATING, Status.ENCODING])
async def test_everything_between_is_pending(api: Api, status: Status) -> None:
    """The clients know no other word."""
    task_id = (await api.generate()).json()["task_id"]
    if status != Status.QUEUED:
        claim = await api.store.claim(task_id, "test")
        assert claim is not None
        for step in (Status.GENERATING, Status.ENCODING):
            if status in (step, Status.ENCODING):
                await api.store.advance(claim, step)
    assert (await api.store.get(task_id)).status == status
    task = (await api.http.get(f"/tasks/{task_id}")).json()
    assert (task["status"], task["_id"]) == ("pending", {"$oid": task_id})
    assert "audio" not in task
    assert (await api.http.get(f"/fetch-result/{task_id}")).json() == {"status": "pending"}


async def test_progress_is_per_cent(api: Api) -> None:
    task_id = (await api.generate()).json()["task_id"]
    assert (await api.http.get(f"/progress/{task_id}")).json() == {"progress": 0.0}
    claim = await api.store.claim(task_id, "test")
    assert claim is not None
    await api.store.set_progress(claim, 0.4321)
    assert (await api.http.get(f"/progress/{task_id}")).json() == {"progress": 43.2}


@pytest.mark.parametrize("length_s", [0.5, 0.500_03, 60.0])
async def test_a_completed_task_carries_its_audio(api: Api, length_s: float) -> None:
    """As base64 of exactly the bytes that were stored, whatever their number's rest by three and by chunk."""
    wav = encode_wav(tone(length_s, 48_000))
    task_id = await _completed(api, wav, {"tempo_bpm": 174.0, "bars": 12})
    answer = await api.http.get(f"/tasks/{task_id}")
    assert int(answer.headers["content-length"]) == len(answer.content)
    task = answer.json()
    assert base64.b64decode(task["audio"], validate=True) == wav
    assert (task["status"], task["tempo_bpm"], task["bars"], task["timestamp"]) == ("completed", 174.0, 12, 12)
    assert task["youtube_url"] == "https://www.youtube.com/watch?v=dQw4w9WgXcQ"
    result = (await api.http.get(f"/fetch-result/{task_id}")).json()
    assert result == {"status": "completed", "audio": task["audio"]}
    assert (await api.http.get(f"/progress/{task_id}")).json() == {"progress": 100.0}


async def test_a_failed_task_says_why(api: Api) -> None:
    task_id = (await api.generate()).json()["task_id"]
    claim = await api.store.claim(task_id, "test")
    assert claim is not None
    await api.store.fail(claim, SourceError("the video is private", "private"))
    for path in ("tasks", "fetch-result"):
        task = (await api.http.get(f"/{path}/{task_id}")).json()
        assert (task["status"], task["error"], task["code"]) == ("failed", "the video is private", "private")


async def test_a_cancelled_task_is_failed_to_old_clients(api: Api) -> None:
    """`cancelled` is a word that they would poll on for ever."""
    task_id = (await api.generate()).json()["task_id"]
    await api.store.cancel(task_id)
    assert (await api.http.get(f"/tasks/{task_id}")).json()["status"] == "failed"


async def test_continue_gives_the_task_a_new_job(api: Api) -> None:
    """The same id, pending again at once, its audio gone from view; today's parameters; the origin is kept."""
    task_id = await _completed(api, encode_wav(tone(20)))
    body = {"task_id": task_id, "model": "thepatch/gary_orchestra", "prompt_duration": "4", "audio": wav64(8)}
    answer = await api.http.post("/continue", json=body)
    assert answer.json() == {"task_id": task_id}
    task = (await api.http.get(f"/tasks/{task_id}")).json()
    assert (task["status"], "audio" in task, task["timestamp"]) == ("pending", False, 12)
    stored = await api.store.get(task_id)
    assert isinstance(stored.job, ContinueJob)
    assert (stored.job.prompt_s, stored.job.length_s) == (4.0, 30.0)
    assert (stored.job.sampling.top_k, stored.job.sampling.cfg_coef) == (250, 3.0)
    assert stored.job.description == "violin, epic, film, piano, strings, orchestra"
    assert await api.store.read_upload(stored) == base64.b64decode(body["audio"])
    assert api.begun == [task_id, task_id]


async def test_continue_without_a_model_of_its_own_has_no_description(api: Api) -> None:
    task_id = await _completed(api, encode_wav(tone(20)))
    await api.http.post("/continue", json={"task_id": task_id, "audio": wav64(8)})
    assert (await api.store.get(task_id)).job.description is None


async def test_crop_honours_start(api: Api) -> None:
    """A text body, base64 of an MP3, of the stretch that was asked for (today's server ignores start)."""
    answer = await api.http.post("/crop-audio", json={"audioData": wav64(10), "start": 2, "end": "5.5"})
    assert answer.headers["content-type"].startswith("text/plain")
    sound = soundfile.SoundFile(io.BytesIO(base64.b64decode(answer.text, validate=True)))
    assert sound.format == "MP3"
    assert sound.frames / sound.samplerate == pytest.approx(3.5, abs=0.001)


async def test_combine_joins_in_order_and_export_converts(api: Api) -> None:
    """Clips of different rate and channel count become one MP3; one clip alone as well."""
    clips = [wav64(1, 44_100, 2), "data:audio/wav;base64," + wav64(2, 22_050), wav64(0.5)]
    joined = await api.http.post("/combine-audio", json={"audioClips": clips})
    sound = soundfile.SoundFile(io.BytesIO(base64.b64decode(joined.text)))
    assert (sound.samplerate, sound.channels) == (44_100, 2)
    assert sound.frames / sound.samplerate == pytest.approx(3.5, abs=0.001)
    exported = await api.http.post("/export-to-mp3", json={"audioData": wav64(0.3, 192_000, 6)})
    assert soundfile.SoundFile(io.BytesIO(base64.b64decode(exported.text))).format == "MP3"


@pytest.mark.parametrize("origin", ["https://gary4web.example", "chrome-extension://abc", "null"])
async def test_any_origin_may_ask(api: Api, origin: str) -> None:
    """Preflights pass with both headers that the clients send."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,ngrok-skip-browser-warning",
    }
    answer = await api.http.options("/generate", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] in ("*", origin)
    assert "ngrok-skip-browser-warning" in answer.headers["access-control-allow-headers"]
