"""gary-on-the-fly, the browser extension, replayed: in a page of youtube.com, asking progress beside status."""

from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any

import pytest

from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from tests.clients.client import GIVE_UP_S, POLL_S, Browser, play, play_mp3, seconds
from tests.running import Running


@pytest.fixture
def extension(service: Running) -> Iterator[Browser]:
    with Browser(service.base_url, "https://www.youtube.com", {}) as browser:
        yield browser


@pytest.fixture
def song(service: Running) -> str:
    samples = make_loop(92.0, 12, "boom-bap", rate_hz=44_100, seed=5)
    return service.media.put("/beat.wav", encode_wav(Clip(samples[None], 44_100)))


def _follow(extension: Browser, task_id: str) -> tuple[dict[str, Any], list[float]]:
    """Polls status and, beside it, progress; the extension knows three words and no other."""
    shown = []
    deadline_s = monotonic() + GIVE_UP_S
    while monotonic() < deadline_s:
        task: dict[str, Any] = extension.get(f"/tasks/{task_id}")
        assert task["status"] in ("pending", "completed", "failed")
        shown.append(extension.get(f"/progress/{task_id}")["progress"])
        if task["status"] != "pending":
            return task, shown
        sleep(POLL_S)
    raise AssertionError(f"task {task_id} was not over after {GIVE_UP_S} s")


def test_a_session_of_the_extension(extension: Browser, song: str) -> None:
    """Health, generate with progress, continue, join with the original, export."""
    health = extension.get("/health")
    assert health["status"] == "live"
    assert {"mongodb", "pytorch", "ray"} <= set(health)

    body = {"url": song, "currentTime": 4, "model": "thepatch/vanya_ai_dnb_0.1", "promptLength": 6, "duration": "22-28"}
    task_id = extension.post("/generate", body).json()["task_id"]
    task, shown = _follow(extension, task_id)
    assert task["status"] == "completed", task.get("error")
    assert all(0.0 <= percent <= 100.0 for percent in shown)
    assert shown == sorted(shown), "progress never falls"
    assert shown[-1] == 100.0
    assert seconds(play(task["audio"])) == pytest.approx(10 * 240 / 92.0, rel=0.04), "10 bars fit 22-28 s"

    body = {"task_id": task_id, "model": "thepatch/gary_orchestra", "prompt_duration": 4, "audio": task["audio"]}
    extension.post("/continue", body)
    continued, _ = _follow(extension, task_id)
    assert continued["status"] == "completed", continued.get("error")
    before_s = seconds(play(task["audio"]))
    assert seconds(play(continued["audio"])) == pytest.approx(before_s - 4 + 30, abs=0.01)

    joined = extension.post("/combine-audio", {"audioClips": [task["audio"], continued["audio"]]})
    assert joined.status_code == 200
    assert seconds(play_mp3(joined.text)) == pytest.approx(2 * before_s - 4 + 30, abs=0.1)

    exported = extension.post("/export-to-mp3", {"audioData": continued["audio"]})
    assert seconds(play_mp3(exported.text)) == pytest.approx(before_s - 4 + 30, abs=0.1)


def test_errors_come_as_json_with_the_cors_header(extension: Browser) -> None:
    """What the extension gets wrong it can read: the status, the sentence, and the header that lets it see both."""
    refused = extension.post("/generate", {"url": "https://example.com/song", "currentTime": 0})
    assert refused.status_code == 400
    assert "YouTube" in refused.json()["error"]
    unknown = extension.post("/continue", {"task_id": "0" * 24, "prompt_duration": 6, "audio": "AAAA"})
    assert unknown.status_code == 404
    assert unknown.json()["error"]
