"""What several parts share: one Ray, one service and one media server for the whole session."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gary.engine.hub import use_hub
from tests.media import MediaServer, media_server

# One hub home a process, settled before any test module imports a library that reads it.
use_hub(Path(__file__).parents[1] / ".models", offline=True)

# A run that a script started in the background ignores Ctrl-C, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from tests.running import Running


@pytest.fixture(scope="session")
def media() -> Iterator[MediaServer]:
    with media_server() as server:
        yield server


@pytest.fixture(scope="session")
def http_port() -> Iterator[int]:
    from tests.running import ray_session

    with ray_session() as port:
        yield port


@pytest.fixture(scope="session")
def ray_running(http_port: int) -> None:
    """Ray and Serve, for tests that deploy something of their own."""


@pytest.fixture(scope="session")
def service(
    ray_running: None, http_port: int, media: MediaServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    from tests.running import running_service

    data_dir: Path = tmp_path_factory.mktemp("database")
    with running_service(media, data_dir, http_port) as running:
        yield running
