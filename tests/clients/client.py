"""What the two old clients share: a browser that posts JSON, polls, and plays data URLs."""

from __future__ import annotations

import base64
import io
from time import monotonic, sleep
from typing import Any

import httpx
import soundfile

POLL_S = 0.2  # theirs is 2 s
GIVE_UP_S = 60.0


class Browser:
    """A page of another origin, with the headers that its requests carry."""

    def __init__(self, base_url: str, origin: str, extra_headers: dict[str, str]) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=60, headers={"Origin": origin, **extra_headers})
        self._origin = origin
        self._extra_headers = extra_headers

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def preflight(self, path: str) -> None:
        """Asks first, as browsers do before a JSON post of another origin."""
        wanted = ", ".join(["content-type", *self._extra_headers]).lower()
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted}
        answer = self._http.options(path, headers=asked)
        assert answer.status_code == 200, answer.text
        allowed = answer.headers["access-control-allow-headers"].lower()
        assert all(name in allowed for name in wanted.split(", ")), allowed
        self._check_origin(answer)

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        self.preflight(path)
        answer = self._http.post(path, json=body)
        self._check_origin(answer)
        return answer

    def get(self, path: str) -> Any:
        answer = self._http.get(path)
        self._check_origin(answer)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def _check_origin(self, answer: httpx.Response) -> None:
        """Without this header the page would not see the answer."""
        assert answer.headers["access-control-allow-origin"] in ("*", self._origin)


def poll_task(browser: Browser, task_id: str) -> dict[str, Any]:
    """`GET /tasks/{id}` until it is over; any fourth status would be polled for ever."""
    deadline_s = monotonic() + GIVE_UP_S
    while monotonic() < deadline_s:
        task: dict[str, Any] = browser.get(f"/tasks/{task_id}")
        assert task["status"] in ("pending", "completed", "failed")
        assert task["_id"] == {"$oid": task_id}
        if task["status"] != "pending":
            return task
        sleep(POLL_S)
    raise AssertionError(f"task {task_id} was not over after {GIVE_UP_S} s")


def play(audio_base64: str) -> soundfile.SoundFile:
    """What an audio element makes of `data:audio/wav;base64,...`: 16-bit PCM, or silence."""
    sound = soundfile.SoundFile(io.BytesIO(base64.b64decode(audio_base64, validate=True)))
    assert (sound.format, sound.subtype) == ("WAV", "PCM_16")
    return sound


def play_mp3(audio_base64: str) -> soundfile.SoundFile:
    sound = soundfile.SoundFile(io.BytesIO(base64.b64decode(audio_base64, validate=True)))
    assert sound.format == "MP3"
    return sound


def seconds(sound: soundfile.SoundFile) -> float:
    return float(sound.frames / sound.samplerate)
