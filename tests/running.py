"""The whole service for a test session: a Ray of its own, HTTP on a free port, everything real but the weights."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray._private.state
from ray import serve

from deployments.app import build
from examples.local import laptop_config
from gary.config import AppArgs
from tests.media import MediaServer

ROOT = Path(__file__).parents[1]
APP_NAME = "gary"


@dataclass(frozen=True)
class Running:
    """A service under test."""

    base_url: str
    args: AppArgs
    media: MediaServer


def app_args(media: MediaServer, data_dir: Path, **changes: Any) -> AppArgs:
    """A laptop's arguments, the model the tiny one, the tests' media server allowed and a database of their own."""
    args = laptop_config("tiny")["applications"][0]["args"]
    args["sources"] = {"allow_direct_urls": [media.host]}
    args["database"] = {"data_dir": str(data_dir)}
    args["engine"]["threads"] = 1
    return AppArgs.model_validate(args | changes)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ray_session() -> Iterator[int]:
    """Starts Ray and Serve; more CPUs are declared than there are, since most replicas idle.

    Returns:
        The port of HTTP: whoever deploys first starts Serve, and its settings stand for all after it.
    """
    ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False, namespace="tests")
    port = free_port()
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 120})
        yield port
    finally:
        serve.shutdown()
        ray.shutdown()


@contextmanager
def running_service(
    media: MediaServer, data_dir: Path, port: int, name: str = APP_NAME, prefix: str = "/", **changes: Any
) -> Iterator[Running]:
    """Deploys the service on the Ray of this session and waits until it is up.

    Args:
        changes: of its arguments.
    """
    args = app_args(media, data_dir, tasks={"lease_s": 4.0, "sweep_s": 1.0, "progress_s": 0.1}, **changes)
    serve.run(build(args), name=name, route_prefix=prefix, logging_config={"encoding": "JSON"})
    try:
        yield Running(f"http://127.0.0.1:{port}{prefix.rstrip('/')}", args, media)
    finally:
        serve.delete(name)


def replica_pids(deployment: str, app_name: str = "") -> list[int]:
    """Processes of a deployment's living replicas, in any application unless one is named.

    Ray's public way to ask needs the dashboard, so not this one.
    """
    actors = ray._private.state.actors(actor_state_name="ALIVE")
    return [actor["Pid"] for actor in actors.values() if f"{app_name}#{deployment}#" in actor["Name"]]
