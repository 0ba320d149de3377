"""The service on a Ray of this process, as often as it is asked for: the product's deployments, replicas by number.

One database server outlives them all; each service has a database of its own on it, so that none finds the tasks of
the one before.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ray import serve

from benchmarks.scale_engine import PacedMusicGen
from deployments import app, conductor, cropper, fetcher, ingress, musicgen
from gary.config import AppArgs
from gary.tasks.embedded import EmbeddedDatabase
from tests.running import APP_NAME, ROOT, ray_session

MODEL = "bench"
UNFINISHED_TASKS = 200
# Ray's workers would be of niceness 15, and give way to whatever else this machine does.
_RAYS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "MALLOC_ARENA_MAX": "2",
}


@dataclass(frozen=True)
class Setting:
    """What is to be served.

    Attributes:
        replicas: of MusicGen.
        slots: of each.
        step_s: of an engine that is a timer; None: the tiny checkpoint, really computed.
    """

    replicas: int
    slots: int
    step_s: float | None = None


@dataclass(frozen=True)
class Service:
    """A service that runs.

    Attributes:
        uri, database: where its tasks are.
    """

    setting: Setting
    base_url: str
    uri: str
    database: str


@dataclass(frozen=True)
class Ground:
    """What every service here stands on."""

    port: int
    database: EmbeddedDatabase

    @contextmanager
    def service(self, setting: Setting, name: str) -> Iterator[Service]:
        """Deploys the service and waits until it is up; takes it down at the end.

        Args:
            name: of its database.
        """
        args = _args(setting, self.database.uri, name)
        serve.run(app.assemble(args, _parts(setting)), name=APP_NAME, logging_config={"encoding": "JSON"})
        try:
            yield Service(setting, f"http://127.0.0.1:{self.port}", self.database.uri, name)
        finally:
            serve.delete(APP_NAME)


@contextmanager
def ground() -> Iterator[Ground]:
    """Ray, Serve and a database server, with a directory for all their files that goes with them."""
    root = Path(tempfile.mkdtemp(prefix="gc-", dir="/tmp"))  # a short name: Ray's sockets lie there
    os.environ.update(_RAYS, RAY_TMPDIR=str(root), PYTHONPATH=str(ROOT))
    database = EmbeddedDatabase(root / "data")
    try:
        database.start()
        with ray_session() as port:
            yield Ground(port, database)
    finally:
        database.stop()
        shutil.rmtree(root)


def _args(setting: Setting, uri: str, database: str) -> AppArgs:
    """Those of a laptop, but for one model, its slots, and how many tasks may wait."""
    args: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.dev.yaml").read_text())["applications"][0]["args"]
    checkpoint = ".models/gary-tiny" if setting.step_s is None else str(setting.step_s)
    args["models"] = [{"name": MODEL, "checkpoint": checkpoint, "size": "bench"}]
    args["default_model"] = MODEL
    args["database"] = {"uri": uri, "name": database}
    args["engine"] |= {"slots": setting.slots}
    args["limits"] = {"unfinished_tasks": UNFINISHED_TASKS}
    return AppArgs.model_validate(args)


def _parts(setting: Setting) -> app.Parts:
    small: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1}}  # more is declared than there is, as on a laptop
    playing = musicgen.deployment.options(num_replicas=setting.replicas, **small)
    return app.Parts(
        fetcher=fetcher.deployment.options(**small),
        cropper=cropper.deployment.options(**small),
        musicgen=playing if setting.step_s is None else playing.options(PacedMusicGen),
        conductor=conductor.deployment.options(**small),
        ingress=ingress.deployment.options(**small),
    )
