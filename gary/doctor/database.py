"""Asks a database what the service needs of it: an answer, a few writes, the time. It leaves nothing behind."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

from pymongo import MongoClient, WriteConcern

from gary.tasks.boundary import database_errors
from gary.tasks.embedded import EmbeddedDatabase

_TIMEOUT_S = 5.0
_WRITES = 20


@dataclass(frozen=True)
class DatabaseAnswer:
    """Attributes:
    version: of the server.
    replica_set: its name; None: a server by itself.
    write_s: median time of a write that most members have.
    ahead_s: how far its clock is ahead of ours; right to half a round trip.
    """

    version: str
    replica_set: str | None
    write_s: float
    ahead_s: float


def ask(uri: str, name: str, timeout_s: float = _TIMEOUT_S) -> DatabaseAnswer:
    """Args:
        name: of the service's database; the writes go into a collection of their own there, dropped afterwards.
        timeout_s: for the server to be found, and for each of its answers.

    Raises:
        DatabaseUnavailable: it does not answer in time.
        FatalError: (code `database_refused`) wrong credentials, URI or rights.
    """
    client: MongoClient[dict[str, Any]]
    timeout_ms = round(timeout_s * 1000)
    with (
        database_errors(),
        MongoClient(uri, serverSelectionTimeoutMS=timeout_ms, socketTimeoutMS=timeout_ms) as client,
    ):
        client.admin.command("ping")  # now there is a connection, so that the next answer takes one round trip
        asked_s = monotonic()
        hello = client.admin.command("hello")
        middle = datetime.now(UTC) - timedelta(seconds=(monotonic() - asked_s) / 2)
        return DatabaseAnswer(
            version=client.server_info()["version"],
            replica_set=hello.get("setName"),
            write_s=_write_s(client, name),
            ahead_s=(hello["localTime"].replace(tzinfo=UTC) - middle).total_seconds(),
        )


def ask_embedded(data_dir: Path) -> DatabaseAnswer:
    """Errors as `EmbeddedDatabase.start` and `ask`."""
    beside = data_dir.absolute()
    while not beside.is_dir():
        beside = beside.parent
    with tempfile.TemporaryDirectory(prefix="gary-doctor-", dir=beside) as folder:
        server = EmbeddedDatabase(Path(folder))
        try:
            return ask(server.start(), "gary")
        finally:
            server.stop()


def _write_s(client: MongoClient[dict[str, Any]], name: str) -> float:
    """As the store writes: one small document, acknowledged by most members."""
    collection = client[name].get_collection(f"doctor-{uuid4().hex[:12]}", write_concern=WriteConcern("majority"))
    times_s = []
    try:
        for number in range(_WRITES):
            begun_s = monotonic()
            collection.insert_one({"_id": number})
            times_s.append(monotonic() - begun_s)
    finally:
        collection.drop()
    return statistics.median(times_s)
