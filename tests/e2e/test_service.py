"""The whole service over HTTP: what only shows when every part is the real one."""

import base64
import io
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from tests.running import Running, replica_pids

TIMEOUT_S = 90.0


@pytest.fixture(scope="module")
def http(service: Running) -> httpx.Client:
    return httpx.Client(base_url=service.base_url, timeout=60)


def _loop(bpm: float, bars: int, rate_hz: int = 44_100, seed: int = 1) -> Clip:
    return Clip(make_loop(bpm, bars, "drum-and-bass", rate_hz=rate_hz, seed=seed)[None], rate_hz)


def _finished(http: httpx.Client, task_id: str) -> dict[str, Any]:
    deadline_s = monotonic() + TIMEOUT_S
    while monotonic() < deadline_s:
        task: dict[str, Any] = http.get(f"/tasks/{task_id}").json()
        if task["status"] != "pending":
            return task
        sleep(0.1)
    raise AssertionError(f"task {task_id} was not over after {TIMEOUT_S} s")


def _generate(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    return _finished(http, answer.json()["task_id"])


def _read(task: dict[str, Any]) -> tuple[np.ndarray[Any, Any], int]:
    assert task["status"] == "completed", task.get("error")
    samples, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(task["audio"])), dtype="int16", always_2d=True)
    return samples.T, rate_hz


def test_the_answer_is_whole_bars_of_the_sources_tempo(http: httpx.Client, service: Running) -> None:
    """Exact in samples: N is the bars' length at the tempo that was found, at the model's 32 kHz."""
    url = service.media.put("/bars.wav", encode_wav(_loop(174.0, 16)))
    task = _generate(http, url=url, currentTime=1.0, duration="16-18")
    samples, rate_hz = _read(task)
    assert rate_hz == 32_000
    assert task["tempo_bpm"] == pytest.approx(174.0, rel=0.01)
    assert samples.shape == (1, round(task["bars"] * 240 / task["tempo_bpm"] * rate_hz))


def test_a_prompt_cut_short_by_the_end_is_continued_from_what_is_there(http: httpx.Client, service: Running) -> None:
    """No silence is put in the place of what is missing (fault 12 of the old backend)."""
    clip = _loop(120.0, 5)  # 10 s
    url = service.media.put("/short.wav", encode_wav(clip))
    task = _generate(http, url=url, currentTime=7.5, promptLength=6, duration="16-18")
    assert task["status"] == "completed", task.get("error")
    assert task["prompt_s"] == pytest.approx(2.5, abs=0.01)


@pytest.mark.parametrize(
    ("start_s", "path", "code"), [(60.0, "/song.wav", "past_end"), (0.0, "/page.html", "unsupported")]
)
def test_a_fetch_that_fails_ends_its_task(
    http: httpx.Client, service: Running, start_s: float, path: str, code: str
) -> None:
    """Failed, with a code for programs and a sentence for people, and progress stays readable."""
    service.media.put("/song.wav", encode_wav(_loop(174.0, 4)))
    service.media.put("/page.html", b"<html><body>no music here</body></html>", "text/html")
    task = _generate(http, url=f"http://{service.media.host}{path}", currentTime=start_s)
    assert (task["status"], task["code"]) == ("failed", code)
    assert task["error"].endswith(".") or " " in task["error"]
    assert "audio" not in task


def test_silence_is_served(http: httpx.Client, service: Running) -> None:
    """No beat means no bars: the answer is as long as the range allows."""
    url = service.media.put("/silence.wav", encode_wav(Clip(np.zeros((1, 20 * 22_050), np.float32), 22_050)))
    task = _generate(http, url=url, currentTime=0)
    samples, rate_hz = _read(task)
    assert samples.shape[1] == 18 * rate_hz
    assert task["tempo_bpm"] is None


def test_a_continuation_keeps_rate_channels_and_the_past(http: httpx.Client, service: Running) -> None:
    """44.1 kHz stereo in, 44.1 kHz stereo out; everything before the prompt is the same, bit for bit."""
    url = service.media.put("/origin.wav", encode_wav(_loop(174.0, 8)))
    task_id = http.post("/generate", json={"url": url}).json()["task_id"]
    _finished(http, task_id)
    left = make_loop(174.0, 12, "drum-and-bass", rate_hz=44_100, seed=8)
    original = Clip(np.stack([left, -0.5 * left]), 44_100)
    wav = encode_wav(original)
    body = {"task_id": task_id, "prompt_duration": 5, "audio": base64.b64encode(wav).decode()}
    assert http.post("/continue", json=body).json() == {"task_id": task_id}
    samples, rate_hz = _read(_finished(http, task_id))
    assert (rate_hz, samples.shape[0]) == (44_100, 2)
    kept = original.length_samples - 5 * 44_100
    assert samples.shape[1] == kept + 30 * 44_100
    before, _ = soundfile.read(io.BytesIO(wav), dtype="int16", always_2d=True)
    np.testing.assert_array_equal(samples[:, :kept], before.T[:, :kept])


def test_a_bad_continuation_leaves_the_task_as_it_was(http: httpx.Client, service: Running) -> None:
    """400, and the music that was there is still there."""
    url = service.media.put("/kept.wav", encode_wav(_loop(174.0, 8)))
    task_id = http.post("/generate", json={"url": url}).json()["task_id"]
    before = _finished(http, task_id)
    for audio in ("", "no base64", base64.b64encode(b"no audio at all" * 100).decode()):
        answer = http.post("/continue", json={"task_id": task_id, "prompt_duration": 6, "audio": audio})
        assert answer.status_code == 400, answer.text
    assert http.get(f"/tasks/{task_id}").json() == before


def test_audio_outgrows_a_mongodb_document(http: httpx.Client, service: Running) -> None:
    """A body of 100 MB is taken, and an answer far beyond 16 MB comes back whole."""
    url = service.media.put("/long.wav", encode_wav(_loop(174.0, 8)))
    task_id = http.post("/generate", json={"url": url}).json()["task_id"]
    _finished(http, task_id)
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (2, 425 * 44_100)).astype(np.float32)
    original = Clip(noise, 44_100)
    audio = base64.b64encode(encode_wav(original)).decode()
    assert 95e6 < len(audio) < 105e6
    body = {"task_id": task_id, "prompt_duration": "6", "audio": f"data:audio/wav;base64,{audio}"}
    answer = http.post("/continue", json=body)
    assert answer.status_code == 200, answer.text
    samples, rate_hz = _read(_finished(http, task_id))
    assert samples.shape == (2, original.length_samples + 24 * rate_hz)


def test_a_body_over_the_limit_is_refused(http: httpx.Client, service: Running) -> None:
    """413 with a sentence, by its declared length and where none is declared."""
    limit_bytes = service.args.limits.body_bytes
    blob = b'{"audioData": "' + b"A" * limit_bytes + b'"}'
    headers = {"Content-Type": "application/json"}
    declared = http.post("/export-to-mp3", content=blob, headers=headers)
    chunked = http.post("/export-to-mp3", content=iter([blob[:1000], blob[1000:]]), headers=headers)
    for answer in (declared, chunked):
        assert answer.status_code == 413
        assert str(limit_bytes) in answer.json()["error"]


def test_many_tasks_at_once_do_not_mix(http: httpx.Client, service: Running) -> None:
    """Each answer has its own source's tempo (fault 2: all jobs shared one path)."""
    tempi = (80.0, 100.0, 125.0, 150.0)
    ids = {}
    for bpm in tempi:
        clip = Clip(make_loop(bpm, 10, "four-on-the-floor", rate_hz=44_100, seed=2)[None], 44_100)
        url = service.media.put(f"/at-{bpm:g}.wav", encode_wav(clip))
        ids[bpm] = http.post("/generate", json={"url": url}).json()["task_id"]
    for bpm, task_id in ids.items():
        task = _finished(http, task_id)
        assert task["status"] == "completed", task.get("error")
        assert task["tempo_bpm"] == pytest.approx(bpm, rel=0.02)


def test_memory_is_flat(http: httpx.Client, service: Running) -> None:
    """The model's process does not grow from task to task (fault 7: GPU memory crept up until a cron job came)."""
    url = service.media.put("/again.wav", encode_wav(_loop(174.0, 4)))
    (pid,) = replica_pids("MusicGen-tiny")

    def resident_after(tasks: int) -> int:
        for _ in range(tasks):
            assert _generate(http, url=url, promptLength=1, duration="2-3")["status"] == "completed"
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])

    warm = resident_after(8)
    assert resident_after(16) < 1.02 * warm
    assert replica_pids("MusicGen-tiny") == [pid], "one process, its model loaded once"


def test_health_is_live(http: httpx.Client, service: Running) -> None:
    """The old clients' words, and beside them the queue and a replica for every model."""
    answer = http.get("/health")
    assert answer.status_code == 200
    health = answer.json()
    assert {part: health[part] for part in ("mongodb", "pytorch", "ray", "status")} == {
        "mongodb": "live",
        "pytorch": "live",
        "ray": "live",
        "status": "live",
    }
    assert health["queue"]["queued"] == 0
    assert set(health["models"]) == {model.name for model in service.args.models}
    assert all(model["replicas_ready"] >= 1 for model in health["models"].values())


def test_unknown_routes_and_methods_answer_in_json(http: httpx.Client) -> None:
    assert http.get("/nowhere").status_code == 404
    assert http.get("/generate").status_code == 405
    assert "error" in http.get("/nowhere").json()
