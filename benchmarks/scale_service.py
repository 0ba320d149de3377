"""The service on a Ray of this process, as often as it is asked for: the product's deployments, replicas by number.

Each service has a database server of its own. One server for all of them stopped answering for good, twice, while the
fifth service began on it; the product's own deployment of it would have been replaced by Serve.
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

from ray import serve

from benchmarks.scale_engine import PacedMusicGen
from deployments import app, conductor, cropper, fetcher, ingress, musicgen
from examples.local import laptop_config
from gary.config import AppArgs, DatabaseConfig
from gary.tasks.embedded import EmbeddedDatabase
from tests.running import APP_NAME, ROOT, ray_session

MODEL = "bench"
DATABASE = DatabaseConfig().name
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
        server: of its database.
    """

    setting: Setting
    base_url: str
    server: EmbeddedDatabase

    @property
    def uri(self) -> str:
        return self.server.uri


@dataclass(frozen=True)
class Ground:
    """What every service here stands on.

    Attributes:
        root: of all their files.
    """

    port: int
    root: Path

    @contextmanager
    def service(self, setting: Setting) -> Iterator[Service]:
        """Deploys the service and waits until it is up; takes it down at the end."""
        with self.database() as server:
            application = app.assemble(_args(setting, server.uri), _parts(setting))
            serve.run(application, name=APP_NAME, logging_config={"encoding": "JSON"})
            try:
                yield Service(setting, f"http://127.0.0.1:{self.port}", server)
            finally:
                serve.delete(APP_NAME)

    @contextmanager
    def database(self) -> Iterator[EmbeddedDatabase]:
        """An empty one."""
        server = EmbeddedDatabase(Path(tempfile.mkdtemp(dir=self.root)))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def ground() -> Iterator[Ground]:
    """Ray and Serve, with a directory for all their files that goes with them."""
    root = Path(tempfile.mkdtemp(prefix="gc-", dir="/tmp"))  # a short name: Ray's sockets lie there
    os.environ.update(_RAYS, RAY_TMPDIR=str(root), PYTHONPATH=str(ROOT))
    try:
        with ray_session() as port:
            yield Ground(port, root)
    finally:
        shutil.rmtree(root)


def _args(setting: Setting, uri: str) -> AppArgs:
    """Those of a laptop, but for one model, its slots, and how many tasks may wait."""
    args: dict[str, Any] = laptop_config()["applications"][0]["args"]
    checkpoint = ".models/gary-tiny" if setting.step_s is None else str(setting.step_s)
    args["models"] = [{"name": MODEL, "checkpoint": checkpoint, "size": "bench"}]
    args["default_model"] = MODEL
    args["database"] = {"uri": uri}
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
