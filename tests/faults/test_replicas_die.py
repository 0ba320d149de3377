"""Replicas are killed with SIGKILL in mid-task: the task is completed all the same, once."""

import os
import signal
from time import monotonic, sleep
from typing import Any

import httpx
import pytest

from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from tests.running import Running, replica_pids

TIMEOUT_S = 120.0


@pytest.fixture
def http(service: Running) -> httpx.Client:
    return httpx.Client(base_url=service.base_url, timeout=60)


@pytest.fixture
def song(service: Running) -> str:
    loop = make_loop(174.0, 16, "drum-and-bass", rate_hz=44_100, seed=4)
    return service.media.put("/fault.wav", encode_wav(Clip(loop[None], 44_100)))


def _until(condition: Any, what: str) -> Any:
    deadline_s = monotonic() + TIMEOUT_S
    while monotonic() < deadline_s:
        if found := condition():
            return found
        sleep(0.05)
    raise AssertionError(f"{what}: not within {TIMEOUT_S} s")


@pytest.mark.parametrize("victim", ["MusicGen-tiny", "Conductor"])
def test_killed_in_mid_generation(http: httpx.Client, song: str, victim: str) -> None:
    """The task was generating when its worker died; it is completed by another attempt."""
    (before,) = _until(lambda: replica_pids(victim), f"a replica of {victim}")
    task_id = http.post("/generate", json={"url": song, "currentTime": 1, "duration": "28-30"}).json()["task_id"]
    _until(lambda: http.get(f"/progress/{task_id}").json()["progress"] > 0, "progress")
    os.kill(before, signal.SIGKILL)
    task = http.get(f"/tasks/{task_id}").json()
    assert task["status"] == "pending", "it was killed in mid-task"

    def over() -> dict[str, Any] | None:
        found: dict[str, Any] = http.get(f"/tasks/{task_id}").json()
        return found if found["status"] != "pending" else None

    task = _until(over, "the end of the task")
    assert task["status"] == "completed", task.get("error")
    after = _until(lambda: replica_pids(victim), f"a new replica of {victim}")
    assert before not in after
    _until(lambda: http.get("/health").json()["status"] == "live", "health")


def test_the_database_killed_comes_back_on_its_files(http: httpx.Client, song: str) -> None:
    """The embedded server dies; tasks made before are read again once Serve has restarted it."""
    task_id = http.post("/generate", json={"url": song, "currentTime": 1}).json()["task_id"]
    (owner,) = replica_pids("Database")
    os.kill(owner, signal.SIGKILL)

    def completed() -> bool:
        answer = http.get(f"/tasks/{task_id}")
        assert answer.status_code in (200, 503), answer.text
        return bool(answer.status_code == 200 and answer.json()["status"] == "completed")

    _until(completed, "the task's completion")
