"""SecantusDB as a process of its own: the database of a machine that has none.

The server speaks MongoDB's protocol on 127.0.0.1 alone and without passwords, so every user of this machine may speak
to it. It is GPL-2.0: we run its program and never import it. It lives no longer than the process that started it.

    data_dir/secantusd.toml     its settings, written at each start; keeps it from reading anybody else's
    data_dir/store/             WiredTiger's files; the lock among them goes with the process that holds it
    data_dir/server.log         what it says, with one older file, 1 MiB each

Measured on 2 cores: 0.7 s to start (1.9 s with 300 MB of journal to replay), 60 MB of memory at rest and 300 to 700 MB
while files of 100 MB pass, 2.2 s to stop, nearly all of it a wait of its own. The journal is cut back once a minute:
sixteen such files within one took 2.1 GB of disk, 0.4 GB a minute later. Expired documents go once a minute as well.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import closing, suppress
from logging import makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from gary.errors import DatabaseUnavailable, FatalError, ToolMissing
from gary.tasks import leash
from gary.tasks.boundary import database_errors

_LISTENING = re.compile(r"secantus listening on 127\.0\.0\.1:(\d+)")
_IN_USE = "already being managed by another process"
_START_TIMEOUT_S = 60.0  # a journal to replay is the longest part
_STOP_TIMEOUT_S = 15.0
_ANSWER_TIMEOUT_S = 5.0
_LOG_BYTES = 1024 * 1024
# glibc gives every few threads a heap of their own, eight a core, and the server has a thread a connection: with eight
# clients at files of 2 MB it held 1.3 GB after two minutes and was still growing, with two heaps 0.42 GB, flat.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}


class EmbeddedDatabase:
    """One server on one data directory. Not for use by several threads at once.

    Args:
        data_dir: made where it is missing; data in it survive stop, start and SIGKILL.
        port: on 127.0.0.1; 0 takes any free one, and keeps it when started again.
    """

    def __init__(self, data_dir: Path, port: int = 0) -> None:
        self._data_dir = data_dir.absolute()
        self._port = port
        self._process: subprocess.Popen[str] | None = None
        self._last_lines: deque[str] = deque(maxlen=20)

    def start(self) -> str:
        """Starts the server and waits until it answers.

        Returns:
            Its URI, mongodb://127.0.0.1:port/.

        Raises:
            ToolMissing: SecantusDB is not installed.
            FatalError: (code `database_in_use`) another server has the data directory; (code `database_start`) it
                ended or did not answer in time.
        """
        assert not self.is_alive, "the server has been started already"
        self._last_lines.clear()
        try:
            command = self._command()
        except OSError as error:
            raise FatalError(f"the database's directory cannot be used: {error}", "database_start") from error
        listening: Future[int] = Future()
        # The leash holds as long as the thread that starts the process, so that thread stays with it to the end.
        threading.Thread(target=self._attend, args=(command, listening), name="database-log", daemon=True).start()
        try:
            self._port = listening.result(_START_TIMEOUT_S)
            self.check_health()
        except TimeoutError as error:
            self.stop()
            raise FatalError(f"the database did not start within {_START_TIMEOUT_S:g} s", "database_start") from error
        except BaseException:
            self.stop()
            raise
        return self.uri

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self._port}/"

    @property
    def pid(self) -> int | None:
        """Of the server; None while there is none."""
        return self._process.pid if self.is_alive and self._process else None

    @property
    def is_alive(self) -> bool:
        """Whether the process runs; `check_health` says whether it answers."""
        return self._process is not None and self._process.poll() is None

    def check_health(self) -> None:
        """Raises DatabaseUnavailable where the server has ended, does not answer within 5 s, or cannot read its files.

        After a write that failed, on a full disk say, WiredTiger refuses everything until it is opened anew, while the
        server still answers to a ping: hence a question that its files are needed for.
        """
        if not self.is_alive:
            raise DatabaseUnavailable(f"the embedded database has ended: {self._last_words()}")
        timeout_ms = round(_ANSWER_TIMEOUT_S * 1000)
        client: MongoClient[dict[str, Any]]
        with (
            database_errors(),
            MongoClient(self.uri, serverSelectionTimeoutMS=timeout_ms, socketTimeoutMS=timeout_ms) as client,
        ):
            client.list_database_names()

    def stop(self) -> None:
        """Ends the server, by SIGKILL where SIGTERM does not. The journal makes both safe. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _command(self) -> list[str]:
        program = Path(sysconfig.get_path("scripts")) / "secantusd-py"
        if not program.is_file():
            raise ToolMissing(
                "the embedded database is not installed: pip install 'gary[embedded]', or set MONGODB_URI"
            )
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = self._data_dir / "secantusd.toml"
        settings.write_text(self._settings(), encoding="utf-8")
        leashed = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid())]
        return [*leashed, str(program), "--config", str(settings)]

    def _settings(self) -> str:
        """Why these: a standalone keeps no oplog, which would write all audio twice and grow by it.

        Without `sync_on_commit` the journal waits in memory, and a write acknowledged just before a SIGKILL was seen
        to be lost; with it an update takes 1.2 ms instead of 0.9 ms, and 100 MB of audio 1.0 s.
        """
        tables: dict[str, dict[str, str | int | float | bool]] = {
            "server": {
                "host": "127.0.0.1",
                "port": self._port,
                "storage_path": str(self._data_dir / "store"),
                "log_level": "INFO",
                "standalone": True,
            },
            "storage": {"cache_size": "256M", "sync_on_commit": True},
        }
        lines: list[str] = []
        for table, values in tables.items():
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]  # TOML, too
        return "\n".join(lines) + "\n"

    def _attend(self, command: list[str], listening: Future[int]) -> None:
        """A thread's work: starts the process, keeps its log, and stays until it has ended."""
        try:
            log = RotatingFileHandler(
                self._data_dir / "server.log", maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8"
            )
            process = self._process = _spawn(command, self._data_dir)
        except OSError as error:
            listening.set_exception(FatalError(f"the database cannot be started: {error}", "database_start"))
            return
        assert process.stderr is not None
        with suppress(OSError), closing(log), process:  # the last lines may find no room either
            for line in map(str.rstrip, process.stderr):
                log.emit(makeLogRecord({"msg": line}))
                self._last_lines.append(line)
                if not listening.done() and (found := _LISTENING.search(line)):
                    listening.set_result(int(found[1]))
        if not listening.done():
            listening.set_exception(self._start_failure())

    def _start_failure(self) -> FatalError:
        if any(_IN_USE in line for line in self._last_lines):
            return FatalError(f"another database server works on {self._data_dir}", "database_in_use")
        return FatalError(f"the database ended at its start: {self._last_words()}", "database_start")

    def _last_words(self) -> str:
        return self._last_lines[-1] if self._last_lines else "it said nothing"


def _spawn(command: list[str], directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=directory,
        env=_ENVIRONMENT | {name: value for name, value in os.environ.items() if not name.startswith("SECANTUS_")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is for us: the service ends first, and then its database
    )
