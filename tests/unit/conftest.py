"""One database server for all unit tests; each test has a database of its own on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest
from pymongo import AsyncMongoClient

from gary.config import DatabaseConfig
from gary.tasks.embedded import EmbeddedDatabase
from gary.tasks.store import TaskStore
from tests.unit.storing import Database, opened


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedDatabase(tmp_path_factory.mktemp("database"))
    yield server.start()
    server.stop()


@pytest.fixture
def config() -> DatabaseConfig:
    return DatabaseConfig(name=f"test-{uuid4().hex[:12]}")


@pytest.fixture
async def store(uri: str, config: DatabaseConfig) -> AsyncIterator[TaskStore]:
    async with opened(uri, config) as store:
        yield store


@pytest.fixture
async def raw(uri: str, config: DatabaseConfig) -> AsyncIterator[Database]:
    """The test's database as it is, past the store."""
    async with AsyncMongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        yield client[config.name]
