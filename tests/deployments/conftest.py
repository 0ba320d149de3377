"""One database server and one stage for all tests of this directory that want one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gary.config import DatabaseConfig
from gary.tasks.embedded import EmbeddedDatabase
from tests.media import MediaServer

if TYPE_CHECKING:
    from tests.deployments.stage import Stage


@pytest.fixture(scope="package")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedDatabase(tmp_path_factory.mktemp("stage-database"))
    yield server.start()
    server.stop()


@pytest.fixture(scope="package")
async def stage(ray_running: None, uri: str, media: MediaServer) -> AsyncIterator[Stage]:
    from tests.deployments.stage import staged

    async with staged(DatabaseConfig(uri=uri, name="stage"), media) as stage:
        yield stage


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that the engine leaves when it is told to stop."""
    return tmp_path / "stopped"
