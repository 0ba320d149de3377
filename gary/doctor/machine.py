"""The machine as it answers. Nothing is judged here, and what is not there is None or empty, never an error."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx

from gary.audio import confine
from gary.audio.ffmpeg import find_ffmpeg
from gary.doctor.database import DatabaseAnswer, ask, ask_embedded
from gary.errors import ToolMissing

_RUN_TIMEOUT_S = 15.0
_HTTP_TIMEOUT_S = 3.0
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class Machine:
    """This machine; tests have another."""

    def run(self, command: Sequence[str]) -> str | None:
        """What a program prints; None where it is not there, fails or does not end."""
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_RUN_TIMEOUT_S, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout

    def ffmpeg(self) -> Path | None:
        """The one that the service would run."""
        try:
            return find_ffmpeg()
        except ToolMissing:
            return None

    def program(self, name: str) -> Path | None:
        """Of this environment, else of PATH."""
        own = Path(sysconfig.get_path("scripts")) / name
        found = str(own) if own.is_file() else shutil.which(name)
        return Path(found) if found else None

    def package_version(self, name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    def required(self, name: str) -> str | None:
        """The version of a package that ours is pinned to, as in `name==1.2`; None: to none."""
        for line in importlib.metadata.requires("gary") or ():
            wanted, _, version = line.partition(";")[0].partition("==")
            if version and wanted.partition("[")[0].strip() == name:
                return version.strip()
        return None

    def memory_bytes(self) -> tuple[int, int]:
        """(all, available) of this machine, or of the container that we are in."""
        values = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        total, available = (int(values[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
        if _CGROUP_LIMIT.is_file() and (limit := _CGROUP_LIMIT.read_text().strip()).isdigit():
            used = int(_CGROUP_LIMIT.with_name("memory.current").read_text())
            total, available = min(total, int(limit)), min(available, int(limit) - used)
        return total, available

    def free_bytes(self, path: Path) -> int:
        """Of the file system that a path is on, or would be."""
        there = path.absolute()
        while not there.exists():
            there = there.parent
        return shutil.disk_usage(there).free

    def shm_bytes(self) -> int:
        """Shared memory, used or not; 0: there is none."""
        there = Path("/dev/shm")  # noqa: S108  what Ray's object store lies in
        return shutil.disk_usage(there).total if there.is_dir() else 0

    def open_files(self) -> tuple[int, int]:
        """(soft, hard) limit on a process's open files."""
        return resource.getrlimit(resource.RLIMIT_NOFILE)

    def lacks(self) -> tuple[str, ...]:
        """Which of seccomp and Landlock the kernel lacks."""
        return confine.missing()

    def is_free(self, port: int) -> bool:
        """Whether nobody listens on 127.0.0.1:port."""
        with socket.socket() as probe:
            probe.settimeout(_HTTP_TIMEOUT_S)
            return probe.connect_ex(("127.0.0.1", port)) != 0

    def http(self, url: str) -> tuple[int, str] | None:
        """(status, body); None where nobody speaks HTTP there."""
        try:
            answer = httpx.get(url, timeout=_HTTP_TIMEOUT_S)
        except httpx.TransportError:
            return None
        return answer.status_code, answer.text

    def database(self, uri: str, name: str) -> DatabaseAnswer:
        """Raises DatabaseUnavailable, FatalError."""
        return ask(uri, name)

    def embedded_database(self, data_dir: Path) -> DatabaseAnswer:
        """A new one, on the same file system; the data that are there are left alone.

        Raises:
            ToolMissing: it is not installed.
            FatalError, DatabaseUnavailable: it does not start or answer.
        """
        return ask_embedded(data_dir)

    def is_dir(self, path: Path) -> bool:
        return path.is_dir()

    def environment(self, name: str) -> str | None:
        return os.environ.get(name)

    def now(self) -> datetime:
        return datetime.now(UTC)
