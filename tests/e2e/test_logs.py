"""The logs that a running service leaves: read as an operator's tools would read them."""

from __future__ import annotations

import base64
import json
import logging
import logging.config
import sys
import warnings
from collections.abc import Callable, Iterator
from logging.handlers import MemoryHandler
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
import ray
from ray import serve

from deployments import logs
from deployments.handles import Handle
from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from tests.running import APP_NAME, Running

TIMEOUT_S = 90.0
KEY = "a-key-that-nobody-may-read-7f3a"
JSON = {"encoding": "JSON"}
Line = dict[str, Any]


@pytest.fixture(scope="module")
def log_dir(ray_running: None) -> Path:
    """Of this Ray session: Serve's files in `serve/`, the processes' standard error beside it."""
    node = ray._private.worker._global_node
    assert node is not None
    return Path(node.get_logs_dir_path())


def _until(found: Callable[[], Any]) -> Any:
    """What `found` finds, once it finds something."""
    deadline_s = monotonic() + TIMEOUT_S
    while monotonic() < deadline_s:
        if what := found():
            return what
        sleep(0.1)
    raise AssertionError(f"nothing was found in {TIMEOUT_S} s")


def _lines(log_dir: Path, app_name: str, deployment: str = "*") -> Iterator[Line]:
    """Every line of an application's replicas; each has to be a JSON object.

    What Serve says before a deployment's constructor has the form of Serve's JSON, and is left out.
    """
    for path in sorted((log_dir / "serve").glob(f"replica_{app_name}_{deployment}_*.log")):
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if "asctime" not in line:
                yield line


def _completed(base_url: str, body: dict[str, Any], headers: dict[str, str]) -> str:
    """The id of a task that was seen to the end, its audio fetched."""
    with httpx.Client(base_url=base_url, timeout=60, headers=headers) as http:
        task_id = str(http.post("/generate", params={"unknown": KEY}, json=body).json()["task_id"])

        def over() -> Line | None:
            answer: Line = http.get(f"/tasks/{task_id}", params={"token": KEY}).json()
            return answer if answer["status"] != "pending" else None

        task = _until(over)
        assert task["status"] == "completed", task
        assert len(task["audio"]) > 100_000
        clip = {"audioData": task["audio"], "start": 0, "end": 1}
        assert http.post("/crop-audio", json=clip).status_code == 200
        assert http.post("/crop-audio", json={**clip, "audioData": task["audio"][1:]}).status_code == 400
    return task_id


def test_a_task_is_told_in_json_by_every_process_and_nothing_secret_is(service: Running, log_dir: Path) -> None:
    """One object a line; the lines of a task's stages carry its id; neither key, cookie, query nor audio is there."""
    wav = encode_wav(Clip(make_loop(174.0, 8, "drum-and-bass", rate_hz=44_100, seed=3)[None], 44_100))
    url = service.media.put("/logged.wav", wav) + f"?signature={KEY}"
    headers = {"Authorization": f"Bearer {KEY}", "X-API-Key": KEY, "Cookie": f"session={KEY}", "Idempotency-Key": KEY}
    task_id = _completed(service.base_url, {"url": url, "promptLength": 2, "duration": "4-6"}, headers)

    def told() -> set[str] | None:
        by = {line["deployment"] for line in _lines(log_dir, APP_NAME) if line.get("task_id") == task_id}
        return by if by >= {"Ingress", "Conductor", "Fetcher", "Cropper", "MusicGen-tiny"} else None

    _until(told)
    for line in _lines(log_dir, APP_NAME):
        assert {"time", "level", "logger", "message", "deployment", "replica"} <= line.keys()
    assert "Database" in {line["deployment"] for line in _lines(log_dir, APP_NAME)}
    secrets = {"the key": KEY, **_pieces("the source", wav)}
    for path in filter(Path.is_file, log_dir.rglob("*")):
        text = path.read_text(encoding="utf-8", errors="replace")
        for name, secret in secrets.items():
            assert secret not in text, f"{name} stands in {path.name}"


def _pieces(name: str, wav: bytes) -> dict[str, str]:
    """Stretches of a file's base64, from where no other file has the same."""
    text = base64.b64encode(wav).decode()
    return {f"{name} at {at}": text[at : at + 48] for at in range(1_000, len(text), len(text) // 10)}


def test_each_request_is_one_line_of_access_log(service: Running, log_dir: Path) -> None:
    """By its route's pattern, its outcome, how long it took, who asked, and the id that its answer brought."""
    with httpx.Client(base_url=service.base_url, timeout=60) as http:
        answers = [http.get("/progress/" + "0" * 24), http.get(f"/{KEY}"), http.post("/generate", json={})]
    wanted = {answer.headers["X-Request-Id"]: answer for answer in answers}

    def logged() -> list[Line] | None:
        lines = [line for line in _lines(log_dir, APP_NAME, "Ingress") if line.get("request_id") in wanted]
        lines = [line for line in lines if line["logger"] == "gary.api.access_log"]
        return lines if len(lines) >= len(wanted) else None

    lines = {line["request_id"]: line for line in _until(logged)}
    for request_id, answer in wanted.items():
        line = lines[request_id]
        assert (line["method"], line["status"]) == (answer.request.method, answer.status_code)
        assert 0 <= line["duration_s"] < 60
        assert line["client"] == "127.0.0.1"
    assert [lines[i]["path"] for i in wanted] == ["/progress/{task_id}", "(no route)", "/generate"]
    assert lines[answers[0].headers["X-Request-Id"]]["task_id"] == "0" * 24


class Talker:
    """Says something in every way that code can."""

    def __init__(self) -> None:
        logs.begin()
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})  # as submitit does at import

    def __call__(self, words: str) -> None:
        logging.getLogger("somebody.else").warning("logged %s", words)
        logging.getLogger("ray").warning("as Ray %s", words)
        print("printed", words)  # noqa: T201
        sys.stderr.write(f"written {words}\n")
        warnings.warn(f"warned {words}", stacklevel=1)
        raise ValueError(f"raised {words}")

    def with_new_handlers(self, path: Path, words: str) -> None:
        """Does what Serve does in a replica whose `logging_config` has changed."""
        logger = logging.getLogger("ray.serve")
        logger.handlers.clear()
        logger.addHandler(MemoryHandler(1, target=logging.FileHandler(path)))
        logger.info("logged %s", words)


@pytest.fixture(scope="module")
def talker(ray_running: None) -> Iterator[Handle]:
    """With standard error turned off and JSON turned on, as in production."""
    actor = {"num_cpus": 0, "runtime_env": {"env_vars": {"RAY_SERVE_LOG_TO_STDERR": "0"}}}
    deployment = serve.deployment(ray_actor_options=actor, logging_config=JSON)(Talker)
    yield serve.run(deployment.bind(), name="talk", route_prefix=None)
    serve.delete("talk")


def test_whatever_is_said_in_a_replica_is_a_clean_line(talker: Handle, log_dir: Path) -> None:
    """Printed, written, warned, logged by strangers, raised: all in the one file, as JSON."""
    with pytest.raises(ValueError, match="raised"):
        talker.remote(f"X-API-Key: {KEY}").result()
    lines = list(_lines(log_dir, "talk"))
    for way in ("logged", "as Ray", "printed", "written", "warned"):
        assert any(f"{way} X-API-Key: [cut]" in line["message"] for line in lines), way
    assert any("raised X-API-Key: [cut]" in line.get("exception", "") for line in lines)
    assert KEY not in json.dumps(lines)


def test_new_log_settings_of_a_running_replica_keep_its_form(talker: Handle, tmp_path: Path) -> None:
    """Serve puts new handlers in the old ones' place then, and the replica goes on."""
    talker.with_new_handlers.remote(tmp_path / "new.log", f"token={KEY}").result()
    line = json.loads((tmp_path / "new.log").read_text().splitlines()[0])
    assert (line["message"], line["deployment"]) == ("logged token=[cut]", "Talker")
