"""gary4web, the web app, replayed: what it sends, in its order, with its headers, its polling and its patience."""

from collections.abc import Iterator

import pytest

from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from tests.clients.client import GIVE_UP_S, Browser, play, play_mp3, poll_task, seconds
from tests.running import Running


@pytest.fixture
def page(service: Running) -> Iterator[Browser]:
    with Browser(service.base_url, "https://gary4web.example", {"ngrok-skip-browser-warning": "true"}) as browser:
        yield browser


@pytest.fixture
def song(service: Running) -> str:
    samples = make_loop(174.0, 16, "drum-and-bass", rate_hz=44_100, seed=3)
    return service.media.put("/song.wav", encode_wav(Clip(samples[None], 44_100)))


def test_a_session_of_the_web_app(page: Browser, song: str) -> None:
    """Generate, play, crop, continue from the crop (an MP3), continue again, with numbers as strings."""
    body = {
        "url": song,
        "currentTime": 2.5,
        "model": "facebook/musicgen-small",
        "promptLength": "6",
        "duration": "16-18",
    }
    answer = page.post("/generate", body)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["task_id"]
    task_id = answer.json()["task_id"]
    assert len(task_id) == 24

    task = poll_task(page, task_id)
    assert task["status"] == "completed", task.get("error")
    assert task["youtube_url"] == song
    assert task["timestamp"] == 2.5
    bar_s = 240 / 174.0
    assert seconds(play(task["audio"])) == pytest.approx(12 * bar_s, rel=0.04), "12 bars fit 16-18 s, 11 and 13 do not"

    # after giving up on polling three times, the app asks this once
    result = page.get(f"/fetch-result/{task_id}")
    assert result == {"status": "completed", "audio": task["audio"]}

    cropped = page.post("/crop-audio", {"audioData": task["audio"], "start": 0, "end": "10"})
    assert cropped.status_code == 200
    assert cropped.headers["content-type"].startswith("text/plain")
    assert seconds(play_mp3(cropped.text)) == pytest.approx(10.0, abs=0.1)

    audio = cropped.text
    expected_s = seconds(play_mp3(audio))
    for prefix in ("", "data:audio/wav;base64,"):
        again = page.post(
            "/continue",
            {"task_id": task_id, "model": "facebook/musicgen-small", "prompt_duration": "6", "audio": prefix + audio},
        )
        assert again.json() == {"task_id": task_id}, "the same id"
        first = page.get(f"/tasks/{task_id}")
        assert (first["status"], "audio" in first) == ("pending", False), "pending again at once"
        assert page.get(f"/fetch-result/{task_id}")["status"] == "pending"
        task = poll_task(page, task_id)
        assert task["status"] == "completed", task.get("error")
        audio = task["audio"]
        expected_s += 30.0 - 6.0
        assert seconds(play(audio)) == pytest.approx(expected_s, abs=0.1)


def test_patience_is_enough(page: Browser, song: str) -> None:
    """A task is over within the 60 s after which the app gives up for the first time."""
    task_id = page.post("/generate", {"url": song, "currentTime": 0}).json()["task_id"]
    assert GIVE_UP_S <= 60.0
    assert poll_task(page, task_id)["status"] == "completed"


def test_a_failed_fetch_reaches_the_page(page: Browser, service: Running) -> None:
    """A link behind which nothing is ends as failed, with a sentence to show and a code."""
    missing = f"http://{service.media.host}/no-such-song.wav"
    task = poll_task(page, page.post("/generate", {"url": missing, "currentTime": 0}).json()["task_id"])
    assert task["status"] == "failed"
    assert task["code"] == "removed"
    assert len(task["error"]) > 20
