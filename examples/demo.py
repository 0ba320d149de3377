"""The main job from end to end, on this machine and on loopback only; run by scripts/demo.

A drum-and-bass loop of known tempo, which the demo model has never heard, is served over HTTP, continued by
`POST /generate`, continued again by `POST /continue`, and cropped by `POST /crop-audio`: the routes, in the order and
the form that the old clients use.
"""

from __future__ import annotations

import base64
import functools
import http.server
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import soundfile
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.local import laptop_config, local_service
from training.grid import RATE_HZ
from training.loops import Loop, make_loop

LOOP_NUMBER = 34  # of the held-out ones: drums, bass and chords, two bars at 187.5 bpm
LOOP_S = 22.0
PLAYED_S = 5.5  # where the musician pressed the button
TASK_TIMEOUT_S = 120.0
OUT = Path("out")


def main() -> None:
    """Starts the service, does the job, writes out/, and stops everything that it started."""
    console = Console()
    OUT.mkdir(exist_ok=True)
    began_s = monotonic()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gary-demo-")))
        loop = make_loop(LOOP_NUMBER, "held-out")
        soundfile.write(OUT / "loop.wav", loop.played(round(LOOP_S * RATE_HZ)), RATE_HZ, subtype="PCM_16")
        console.print(f"the loop: {loop.description}")
        loop_url = f"{stack.enter_context(served(OUT))}/loop.wav"
        config, port = demo_config(loop_url, scratch)
        with console.status("starting Ray, the database and the model …"):
            service = stack.enter_context(local_service(config, port, OUT / "service.log"))
        console.print(f"service live after {monotonic() - began_s:.1f} s at {service.base_url}")
        client = stack.enter_context(httpx.Client(base_url=service.base_url, timeout=60))
        run_job(client, loop, loop_url, console)
        console.print(f"all of it took {monotonic() - began_s:.1f} s; stopping the service …")
    console.print(f"stopped after {monotonic() - began_s:.1f} s; the audio lies in {OUT}/")


def run_job(client: httpx.Client, loop: Loop, loop_url: str, console: Console) -> None:
    """Generate, continue, crop; each result is written to out/ and told in a line of the table."""
    table = Table("file", "seconds", "fetch", "generate", "encode", title="made")
    task_id = post(client, "/generate", {"url": loop_url, "currentTime": PLAYED_S, "duration": "16-18"})["task_id"]
    generated = wait(client, task_id, "generate", console)
    console.print(
        f"tempo: played at {loop.bpm:g} bpm, found {generated['tempo_bpm']:.1f}; answer: {generated['bars']} bars"
    )
    add_row(table, write_audio("generated.wav", generated["audio"]), generated)

    body = {"task_id": task_id, "prompt_duration": "6", "audio": generated["audio"]}
    post(client, "/continue", body)
    continued = wait(client, task_id, "continue", console)
    add_row(table, write_audio("continued.wav", continued["audio"]), continued)

    answer = client.post("/crop-audio", json={"audioData": continued["audio"], "start": 2, "end": 12})
    answer.raise_for_status()
    add_row(table, write_audio("cropped.mp3", answer.text), None)
    console.print(table)


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """Sends JSON; raises SystemExit with the service's own sentence when it refuses."""
    answer = client.post(path, json=body)
    if answer.is_error:
        raise SystemExit(f"{path} answered {answer.status_code}: {answer.json()['error']}")
    return answer.json()


def wait(client: httpx.Client, task_id: str, what: str, console: Console) -> dict[str, Any]:
    """Polls as the clients do, behind a progress bar; raises SystemExit where the task fails."""
    columns = (TextColumn("{task.description:10}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    deadline_s = monotonic() + TASK_TIMEOUT_S
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task(what, total=100.0)
        while monotonic() < deadline_s:
            progress.update(bar, completed=client.get(f"/progress/{task_id}").json()["progress"])
            task: dict[str, Any] = client.get(f"/tasks/{task_id}").json()
            if task["status"] == "failed":
                raise SystemExit(f"{what} failed: {task['error']}")
            if task["status"] == "completed":
                progress.update(bar, completed=100.0)
                return task
            sleep(0.25)
    raise SystemExit(f"{what} was not done after {TASK_TIMEOUT_S:g} s")


def write_audio(name: str, audio_base64: str) -> Path:
    path = OUT / name
    path.write_bytes(base64.b64decode(audio_base64))
    return path


def add_row(table: Table, path: Path, task: dict[str, Any] | None) -> None:
    """The file's own length, read back from it, beside the task's stage times."""
    info = soundfile.info(path)
    stages = ("fetching_s", "generating_s", "encoding_s")
    times = [f"{task[stage]:.2f} s" for stage in stages] if task else ["", "", ""]
    table.add_row(str(path), f"{info.frames / info.samplerate:.3f}", *times)


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serves a directory over HTTP on a free loopback port; yields its base URL."""
    handler = functools.partial(_QuietHandler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
        pass


def demo_config(loop_url: str, scratch: Path) -> tuple[Path, int]:
    """serve_config.dev.yaml with a free port, a database of its own, and the loop's server allowed by its address."""
    config = laptop_config()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config["http_options"]["port"] = port
    args = config["applications"][0]["args"]
    args["sources"] = {"allow_direct_urls": [httpx.URL(loop_url).netloc.decode()]}
    args["database"] = {"data_dir": str(scratch / "database")}
    path = scratch / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path, port


if __name__ == "__main__":
    main()
