"""All checks, in the order of the report."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from gary.config import AppArgs
from gary.doctor import checks, storage
from gary.doctor.finding import Finding
from gary.doctor.machine import Machine

HTTP_PORT, DASHBOARD_PORT = 8000, 8265


def examine(machine: Machine, args: AppArgs, http_port: int = HTTP_PORT) -> Iterator[Finding]:
    """Looks at everything, and says each thing as soon as it is known. It takes a few seconds, most of them programs'.

    Args:
        args: of the service that is to run here.
    """
    yield checks.gpu(machine, args)
    yield checks.memory(machine)
    yield checks.shared_memory(machine)
    yield checks.disk(machine, Path(tempfile.gettempdir()), "temporary files and Ray's session")
    yield checks.disk(machine, storage.hub_cache(machine, args), "weights")
    yield checks.open_files(machine)
    yield checks.kernel(machine)
    yield checks.ray(machine)
    yield checks.ffmpeg(machine)
    yield checks.ytdlp(machine)
    yield checks.deno(machine)
    yield from storage.database(machine, args)
    yield from storage.models(machine, args)
    yield checks.port(machine, http_port, "/health", '"mongodb"', "this service")
    yield checks.port(machine, DASHBOARD_PORT, "/api/version", "ray_version", "Ray's dashboard")
