"""The commands of the README, as a person runs them. First in the session: one Ray at a time."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest
import soundfile
import yaml

from examples.local import laptop_config
from tests.running import ROOT, free_port

DEMO_TIMEOUT_S = 150  # it takes a third of that on a machine that does nothing else
STOP_TIMEOUT_S = 60


def _descendants(marker: str) -> list[str]:
    """Command lines of the living processes whose environment carries `marker`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found


@pytest.fixture
def marker(request: pytest.FixtureRequest) -> Iterator[str]:
    """A word in the environment of all that a command starts; nothing of it may be left afterwards."""
    word = f"GARY_TEST_MARK={request.node.name}-{os.getpid()}"
    yield word
    deadline_s = monotonic() + 20
    while (left := _descendants(word)) and monotonic() < deadline_s:
        sleep(0.2)
    assert left == []


def _environment(marker: str) -> dict[str, str]:
    name, _, value = marker.partition("=")
    return os.environ | {name: value}


def test_the_demo_does_the_main_job(marker: str) -> None:
    """It ends with status 0, its files are what it says, and the tempo that it found is the loop's."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env=_environment(marker),
        capture_output=True,
        text=True,
        timeout=DEMO_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"played at ([\d.]+) bpm, found ([\d.]+); answer: (\d+) bars", done.stdout)
    assert found is not None, done.stdout
    bpm, bars = float(found[1]), int(found[3])
    assert float(found[2]) == pytest.approx(bpm, rel=0.01)
    generated, continued = (soundfile.info(ROOT / "out" / name) for name in ("generated.wav", "continued.wav"))
    assert generated.frames == pytest.approx(bars * 240 / bpm * 32_000, rel=0.01)
    assert continued.frames == generated.frames + 24 * 32_000
    assert soundfile.info(ROOT / "out" / "cropped.mp3").duration == pytest.approx(10, abs=0.05)


def test_serve_runs_until_it_is_told_to_stop(marker: str, tmp_path: Path) -> None:
    """It says what to try, answers live, keeps its tasks over a restart, and Ctrl-C stops all of it."""
    config = laptop_config("tiny")
    config["http_options"]["port"] = port = free_port()
    nowhere = f"127.0.0.1:{free_port()}"
    config["applications"][0]["args"]["sources"] = {"allow_direct_urls": [nowhere]}
    config["applications"][0]["args"]["database"] = {"data_dir": str(tmp_path / "database")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "examples.serve", str(path), "--port", str(port)]
    base_url = f"http://127.0.0.1:{port}"
    task_id = ""
    for _ in range(2):
        process = subprocess.Popen(command, cwd=ROOT, env=_environment(marker), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "Ctrl-C" in line:
                    break
            assert httpx.get(f"{base_url}/health", timeout=10).json()["status"] == "live"
            if task_id:
                assert httpx.get(f"{base_url}/tasks/{task_id}").status_code == 200
            body = {"url": f"http://{nowhere}/song.wav"}
            task_id = httpx.post(f"{base_url}/generate", json=body, timeout=10).json()["task_id"]
        finally:
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=STOP_TIMEOUT_S)
        assert process.returncode == 0, rest
