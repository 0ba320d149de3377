"""The service under the soak: as scripts/serve starts it, on ground of its own, and its processes by name.

Every process that the service starts carries a mark in its environment, so that none is missed and none of anybody
else's is touched.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psutil
import yaml

from examples.local import laptop_config, local_service
from tests.media import MediaServer, media_server
from tests.running import free_port

TTL_S = 60.0
FILE_GRACE_S = 30.0
UNFINISHED_TASKS = 16
SERVER = "the database's server"
_MARK = "GARY_SOAK_MARK"
REPLICAS = {"Ingress": 2, "Conductor": 2}
_REPLICA = re.compile(r"ServeReplica:gary:([\w-]+)")


@dataclass(frozen=True)
class Service:
    """A service that runs.

    Attributes:
        root: of all its files; nothing of it lies elsewhere.
        mark: in the environment that each of its processes is started with.
        known: processes of it that were seen; Ray's write their title over their environment.
    """

    base_url: str
    database_uri: str
    root: Path
    mark: str
    media: MediaServer
    known: set[psutil.Process] = field(default_factory=set)

    @property
    def temporary(self) -> Path:
        """Its TMPDIR."""
        return self.root / "tmp"

    @property
    def data(self) -> Path:
        """The database's files."""
        return self.root / "data"

    def processes(self) -> list[psutil.Process]:
        """All that live, or are dead and not waited for."""
        living = [process for process in psutil.process_iter() if process in self.known or self._is_marked(process)]
        self.known.update(living)
        for process in living:
            with suppress(psutil.Error):
                self.known.update(process.children(recursive=True))
        self.known.intersection_update([process for process in self.known if process.is_running()])
        return list(self.known)

    def victims(self, name: str) -> list[psutil.Process]:
        """The processes of a deployment's replicas, or the database's server."""
        return [process for process in self.processes() if name_of(process) == name]

    def kill_all(self) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(_MARK) == self.mark
        except psutil.Error:
            return False


def name_of(process: psutil.Process) -> str:
    """What the tables call a process: its deployment, Ray's part, or its program. Empty where it is gone."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    line = " ".join(words)
    if found := _REPLICA.search(line):
        return found[1]
    if "secantusd-py" in line:
        return SERVER
    if line.startswith("ray::"):
        return words[0].split()[0].removeprefix("ray::").split(".")[0]
    parts = [Path(word).name for word in words if word.endswith((".py", "raylet", "gcs_server", "serve", "yt-dlp"))]
    return parts[0] if parts else " ".join(Path(word).name for word in words[:2])[:30]


@contextmanager
def ground() -> Iterator[Path]:
    """A directory for all files of a service, which go with it."""
    root = Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))  # a short name: Ray's sockets lie there
    try:
        yield root
    finally:
        shutil.rmtree(root)


@contextmanager
def running(root: Path, log: Path) -> Iterator[Service]:
    """Starts the service of serve_config.dev.yaml and stops it; its files are left for the caller to look at.

    Args:
        root: for its files.
        log: what it prints.

    Raises:
        RuntimeError: it ended, or was not live in time.
    """
    (root / "tmp").mkdir()
    port, database_port, mark = free_port(), free_port(), uuid4().hex
    env = {_MARK: mark, "TMPDIR": str(root / "tmp"), "RAY_TMPDIR": str(root / "ray")}
    with media_server() as media:
        config = _config(root, media.host, port, database_port)
        with local_service(config, port, log, env) as started:
            service = Service(started.base_url, f"mongodb://127.0.0.1:{database_port}/", root, mark, media)
            try:
                yield service
            except BaseException:
                service.kill_all()
                raise
            service.processes()  # known from now on, whatever becomes of their parents


def _config(root: Path, media_host: str, port: int, database_port: int) -> Path:
    """Production's shape at a laptop's size: two ingresses and conductors, and a time to live that is seen to pass."""
    config = laptop_config("tiny")
    config["http_options"]["port"] = port
    application = config["applications"][0]
    application["args"]["sources"] = {"allow_direct_urls": [media_host]}
    application["args"]["database"] = {"data_dir": str(root / "data"), "port": database_port}
    application["args"]["tasks"] = {"ttl_s": TTL_S, "file_grace_s": FILE_GRACE_S}
    application["args"]["limits"] = {"unfinished_tasks": UNFINISHED_TASKS}
    for deployment in application["deployments"]:
        deployment["num_replicas"] = REPLICAS.get(deployment["name"], 1)
    path = root / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
