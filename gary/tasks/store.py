"""Tasks in MongoDB, or in anything that speaks its protocol: one face over its parts.

    table.py        the tasks' documents, compared and swapped       files.py   audio, and the ledger of it
    idempotency.py  requests that are done once                      live.py    audio of an attempt under way
    queue.py        how many, how fast, who is next

All times are the database server's (`hello` tells them), so hosts need not agree on the time: a worker whose clock is
off neither loses its lease early nor keeps it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pymongo import AsyncMongoClient

from gary.config import DatabaseConfig, Limits, TasksConfig
from gary.tasks.boundary import database_errors, translated
from gary.tasks.clients import ClientSide
from gary.tasks.documents import Document
from gary.tasks.files import AudioFiles
from gary.tasks.idempotency import Uses
from gary.tasks.live import LiveChunk, LiveChunks
from gary.tasks.queue import Queue
from gary.tasks.side import Parts, answered
from gary.tasks.table import Table
from gary.tasks.witness import Nobody, Witness
from gary.tasks.workers import MadeTake, WorkerSide

__all__ = ["LiveChunk", "MadeTake", "TaskStore"]

_ANSWER_TIMEOUT_S = 30.0  # one answer of the server, a batch of 48 MB written before it included
_IDLE_S = 60.0  # unused connections are closed; the embedded server hangs up after 300 s
_UNFINISHED_TASKS = Limits().unfinished_tasks


class TaskStore(ClientSide, WorkerSide):
    """The tasks and audio files of one database. Belongs to the event loop that first uses it.

    Every method raises DatabaseUnavailable where the database does not answer: in `database.timeout_s` where there is
    none to be found, or where a client waits. What was being written then may or may not have been; each method may be
    called again.

    Args:
        uri: mongodb://...
        unfinished_tasks: as many may wait or be worked on; one more is refused.
        witness: is told of what is changed through this store.
    """

    def __init__(
        self,
        uri: str,
        database: DatabaseConfig,
        tasks: TasksConfig,
        unfinished_tasks: int = _UNFINISHED_TASKS,
        witness: Witness | None = None,
    ) -> None:
        witness = witness if witness is not None else Nobody()
        with database_errors():
            self._client: AsyncMongoClient[Document] = AsyncMongoClient(
                uri,
                appname="gary",
                tz_aware=True,
                tzinfo=UTC,
                serverSelectionTimeoutMS=round(database.timeout_s * 1000),
                connectTimeoutMS=round(database.timeout_s * 1000),
                socketTimeoutMS=round(_ANSWER_TIMEOUT_S * 1000),
                maxIdleTimeMS=round(_IDLE_S * 1000),
            )
        ours = self._client[database.name]
        now = self._server_time
        super().__init__(
            Parts(
                table=Table(ours["tasks"], witness),
                files=AudioFiles(ours, now, timedelta(seconds=tasks.file_grace_s), witness),
                live=LiveChunks(ours, timedelta(seconds=tasks.live_ttl_s)),
                uses=Uses(ours, now, min(tasks.idempotency_ttl_s, tasks.ttl_s)),
                queue=Queue(ours["tasks"], now, unfinished_tasks, database.timeout_s),
                now=now,
                config=tasks,
                answer_s=database.timeout_s,
            )
        )

    @translated
    async def open(self) -> None:
        """Makes the indexes where they are missing. The store works without them, slowly, and forgets no task."""
        for part in (self._table, self._queue, self._uses, self._files, self._live):
            await part.create_indexes()

    @translated
    async def close(self) -> None:
        await self._client.close()

    @answered
    async def ping(self) -> None:
        """Raises DatabaseUnavailable unless the database answers."""
        await self._client.admin.command("ping")

    async def _server_time(self) -> datetime:
        """The database server's clock, by milliseconds."""
        answer = await self._client.admin.command("hello", codec_options=self._client.codec_options)
        now: datetime = answer["localTime"]
        return now
