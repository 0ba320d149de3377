"""Our service beside today's way of serving, on one checkpoint and one machine: `scripts/bench incumbent`.

The checkpoint has musicgen-small's decoder with random weights, beside a tiny codec and text encoder. 1, 4 and 8
clients in a closed loop ask for answers of 8 s, 4 s of them prompt, from a loop on loopback; each side is started for
its turn and stopped after it, so that neither pays for the other's idling. Neither is warmed up beyond its own start;
the checkpoint is read once before, so that both find it in memory. The incumbent (`incumbent_worker.py`) makes one
answer at a time whatever waits, so that few answers tell its rate. One JSON line last.

    vs_incumbent     jobs per hour of ours over the incumbent's, at 1, 4 and 8 clients
    jobs_per_hour    of both, by clients
    incumbent_job_s  median seconds of its stages: loading (fetching and tempo included) and generating
    conditions       among them the load average before, which says how quiet the machine was
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import yaml
from pymongo import AsyncMongoClient

from benchmarks.checkpoints import small_shape
from benchmarks.engine import machine, memory_bandwidth_gb_s
from benchmarks.incumbent_clients import POLL_S, Ask, IncumbentDesk, Load, ServiceDesk, closed_loop
from benchmarks.incumbent_worker import DATABASE, READY, Document
from examples.local import laptop_config, local_service
from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from gary.engine.linear import default_precision
from gary.tasks.embedded import EmbeddedDatabase
from tests.media import MediaServer, media_server
from tests.running import free_port

CLIENTS = (1, 4, 8)
MODEL = "bench-small"
PROMPT_S, LENGTH_S = 4.0, 8.0
LOOP_BPM = 120.0  # 8 s are four bars of it
STEPS = 203  # of an answer: 200 new frames, the last codebook 3 steps behind the first
STEP_WEIGHTS = 361_000_000  # read by each: 24 layers of 14 squares of 1024, 4 heads of 2048 by 1024
SLOTS = 8
CACHE_BYTES = 6 << 30  # eight guided requests, whatever the precision


@dataclass(frozen=True)
class Setting:
    """What both sides share.

    Attributes:
        threads: torch's, of each side.
        precision: of our engine; the incumbent has audiocraft's.
        incumbent_jobs: answers of the incumbent, at each number of clients.
        client_jobs: answers of ours, for each client.
    """

    media: MediaServer
    url: str
    checkpoint: Path
    threads: int
    precision: str
    incumbent_jobs: int
    client_jobs: int

    def ask(self, model: str) -> Ask:
        return Ask(self.url, model, PROMPT_S, LENGTH_S)


@dataclass
class Figures:
    """What was measured, by clients."""

    load_average: float
    incumbent: dict[int, Load] = field(default_factory=dict)
    ours: dict[int, Load] = field(default_factory=dict)
    loading_s: list[float] = field(default_factory=list)
    generating_s: list[float] = field(default_factory=list)


def main() -> None:
    """Prints the ceiling, each load, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=2, help="answers of the incumbent at each number of clients")
    parser.add_argument("--client-jobs", type=int, default=3, help="answers of ours for each client")
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--threads", type=int, default=2, help="torch's, of each side")
    parser.add_argument("--precision", default="auto", help="of our engine; audiocraft's is fp32 on a CPU")
    options = parser.parse_args()
    figures = Figures(load_average=os.getloadavg()[0])
    _print_ceiling()
    with media_server() as media:
        setting = Setting(
            media=media,
            url=media.put("/loop.wav", _loop()),
            checkpoint=small_shape().absolute(),
            threads=options.threads,
            precision=options.precision,
            incumbent_jobs=options.jobs,
            client_jobs=options.client_jobs,
        )
        _read_all(setting.checkpoint)
        for turn, clients in enumerate(options.clients):
            sides = (_measure_incumbent, _measure_ours)
            for measure in sides if turn % 2 == 0 else reversed(sides):
                measure(setting, clients, figures)
    print(json.dumps(_results(figures, setting)))


def _results(figures: Figures, setting: Setting) -> dict[str, Any]:
    def rates(loads: dict[int, Load]) -> dict[str, float]:
        return {str(clients): round(load.jobs_per_hour, 1) for clients, load in loads.items()}

    precision = default_precision("cpu") if setting.precision == "auto" else setting.precision
    return {
        "machine": machine(setting.threads),
        "vs_incumbent": [
            round(ours.jobs_per_hour / figures.incumbent[clients].jobs_per_hour, 2)
            for clients, ours in figures.ours.items()
        ],
        "jobs_per_hour": {"incumbent": rates(figures.incumbent), "ours": rates(figures.ours)},
        "incumbent_job_s": {
            "loading": round(median(figures.loading_s), 1),
            "generating": round(median(figures.generating_s), 1),
        },
        "conditions": {
            "answer_s": LENGTH_S,
            "prompt_s": PROMPT_S,
            "poll_s": POLL_S,
            "load_average": round(figures.load_average, 2),
            "threads": setting.threads,
            "precision": {"incumbent": "fp32", "ours": precision},
            "answers": {
                "incumbent": {str(clients): load.answers for clients, load in figures.incumbent.items()},
                "ours": {str(clients): load.answers for clients, load in figures.ours.items()},
            },
        },
    }


def _print_ceiling() -> None:
    bandwidth = memory_bandwidth_gb_s()
    print(f"ceiling: memory gives {bandwidth:.1f} GB/s (copy of 1 GB, best of 5); {STEPS} steps read all weights each")
    for precision, element_bytes in (("fp32", 4), ("bf16", 2)):
        job_s = STEPS * STEP_WEIGHTS * element_bytes / bandwidth / 1e9
        print(f"ceiling: one at a time in {precision}, {job_s:.1f} s a job, {3600 / job_s:.0f} jobs/h", flush=True)


def _measure_incumbent(setting: Setting, clients: int, figures: Figures) -> None:
    async def measure(uri: str) -> None:
        async with AsyncMongoClient[Document](uri) as client:
            ask = setting.ask(str(setting.checkpoint))  # it loads whatever it is told to
            load = await closed_loop(IncumbentDesk(client), ask, clients, setting.incumbent_jobs)
            figures.incumbent[clients] = load
            async for task in client[DATABASE]["tasks"].find({"status": "completed"}, {"audio": False}):
                figures.loading_s.append(task["loading_s"])
                figures.generating_s.append(task["generating_s"])
        _tell("incumbent", clients, load)

    with _incumbent(setting.threads) as uri:
        asyncio.run(measure(uri))


def _measure_ours(setting: Setting, clients: int, figures: Figures) -> None:
    async def measure(base_url: str) -> None:
        async with httpx.AsyncClient(base_url=base_url, timeout=60) as http:
            load = await closed_loop(ServiceDesk(http), setting.ask(MODEL), clients, clients * setting.client_jobs)
            figures.ours[clients] = load
        _tell("ours", clients, load)

    with _service(setting) as base_url:
        asyncio.run(measure(base_url))


def _tell(side: str, clients: int, load: Load) -> None:
    rate = load.jobs_per_hour
    print(f"{side:>9}, {clients} clients: {load.answers} in {load.wall_s:.1f} s, {rate:.0f} jobs/h", flush=True)


@contextmanager
def _incumbent(threads: int) -> Iterator[str]:
    """A database and a worker that is ready; the URI. The worker's session goes as a whole, its horse with it."""
    with tempfile.TemporaryDirectory(prefix="gary-incumbent-") as root:
        database = EmbeddedDatabase(Path(root))
        uri = database.start()
        try:
            command = [sys.executable, "-m", "benchmarks.incumbent_worker", uri, str(threads)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as worker:
                assert worker.stdout is not None
                try:
                    if worker.stdout.readline().strip() != READY:
                        raise RuntimeError(f"the worker ended with status {worker.wait()} before it was ready")
                    yield uri
                finally:
                    if worker.poll() is None:
                        os.killpg(worker.pid, signal.SIGTERM)
        finally:
            database.stop()


@contextmanager
def _service(setting: Setting) -> Iterator[str]:
    """Our service on files of its own, one model in it; its base URL."""
    root = Path(tempfile.mkdtemp(prefix="gi-", dir="/tmp"))  # a short name: Ray's sockets lie there
    port = free_port()
    try:
        config = _config(root, port, setting)
        with local_service(config, port, root / "serve.log", {"RAY_TMPDIR": str(root)}) as service:
            yield service.base_url
    finally:
        shutil.rmtree(root)


def _config(root: Path, port: int, setting: Setting) -> Path:
    """serve_config.dev.yaml, but for the model, and room for eight requests at once."""
    config = laptop_config()
    config["http_options"]["port"] = port
    application = config["applications"][0]
    args = application["args"]
    args["models"] = [{"name": MODEL, "checkpoint": str(setting.checkpoint), "size": MODEL}]
    args["default_model"] = MODEL
    args["sources"] = {"allow_direct_urls": [setting.media.host]}
    args["database"] = {"data_dir": str(root / "data")}
    args["engine"] |= {
        "threads": setting.threads,
        "precision": setting.precision,
        "slots": SLOTS,
        "cache_bytes": CACHE_BYTES,
    }
    kept = [each for each in application["deployments"] if not each["name"].startswith("MusicGen-")]
    model = {"name": f"MusicGen-{MODEL}", "ray_actor_options": {"num_cpus": 0.1}}
    application["deployments"] = [*kept, model]
    path = root / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _loop() -> bytes:
    """32 s, mono, 44.1 kHz, as WAV."""
    return encode_wav(Clip(make_loop(LOOP_BPM, 16, "rock", rate_hz=44_100, seed=4)[None], 44_100))


def _read_all(checkpoint: Path) -> None:
    """Brings a checkpoint's files into the system's cache."""
    for path in checkpoint.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


if __name__ == "__main__":
    main()
