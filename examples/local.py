"""The service on this machine, as a child process: `serve run` with a Ray of its own, stopped as a whole.

What the demo, `scripts/serve` and people with an editor open have in common.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import yaml

READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 40.0
_LAPTOP = Path(__file__).parents[1] / "serve_config.dev.yaml"
_HEAPS = "2"  # of glibc, a process; by itself it takes eight a core, and what threads freed stays in each


@dataclass(frozen=True)
class LocalService:
    """A service that answers at `base_url`; its own words go to `log`."""

    base_url: str
    process: subprocess.Popen[bytes]
    log: Path


def laptop_config(model: str = "demo") -> dict[str, Any]:
    """serve_config.dev.yaml as a value, for whoever changes a part of it.

    Args:
        model: "tiny" has every name served by the random stand-in, which is quick and makes noise.
    """
    text = _LAPTOP.read_text()
    for name in ("gary-demo", "size: demo", "MusicGen-demo"):
        assert name in text, f"{_LAPTOP} does not name {name}"
        text = text.replace(name, name.replace("demo", model))
    config: dict[str, Any] = yaml.safe_load(text)
    if model != "demo":  # which alone goes without the usual words
        for each in config["applications"][0]["args"]["models"]:
            each["description"] = each["description"] or None
    return config


@contextmanager
def local_service(config: Path, port: int, log: Path, env: Mapping[str, str] | None = None) -> Iterator[LocalService]:
    """Starts the service from a Serve config file, waits until it is live, and stops everything at the end.

    Args:
        config: its http_options say `port`.
        log: what Ray and the replicas print.
        env: variables beside those of this process.

    Raises:
        RuntimeError: it ended, or was not live within READY_TIMEOUT_S; the sentence names the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # A Ray of our own on loopback needs no token under the home directory, and no word to anybody.
    usual = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "MALLOC_ARENA_MAX": _HEAPS}
    variables = {**usual, **os.environ, **(env or {})}
    program = str(Path(sys.executable).with_name("serve"))
    command = [program, "run", "--address", "local", "--app-dir", ".", str(config)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=variables, start_new_session=True
        )
    service = LocalService(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait_until_live(service)
        yield service
    finally:
        _stop(process)


def _wait_until_live(service: LocalService) -> None:
    deadline_s = monotonic() + READY_TIMEOUT_S
    with httpx.Client(base_url=service.base_url, timeout=5) as http:  # one: each reads all certificates first
        while monotonic() < deadline_s:
            if service.process.poll() is not None:
                raise RuntimeError(f"the service ended with status {service.process.returncode}; see {service.log}")
            try:
                if http.get("/health").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:  # not listening yet
                pass
            sleep(0.2)
    raise RuntimeError(f"the service was not live after {READY_TIMEOUT_S:g} s; see {service.log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Asks as Ctrl-C does; what does not go in time is killed, and its Ray with it."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
