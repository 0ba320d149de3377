"""The embedded database as a process: start, stop, death, and what must not disturb it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.uri_parser import parse_uri

from gary.errors import DatabaseUnavailable, FatalError
from gary.tasks.embedded import EmbeddedDatabase

# Starts a server from a thread that ends at once, tells its URI, and waits to be killed.
_HOLDER = """
import sys, threading
from pathlib import Path
from gary.tasks.embedded import EmbeddedDatabase
server = EmbeddedDatabase(Path(sys.argv[1]))
starter = threading.Thread(target=server.start)
starter.start()
starter.join()
server.check_health()
print(server.uri, flush=True)
sys.stdin.read()
"""


@contextmanager
def running(data_dir: Path, port: int = 0) -> Iterator[EmbeddedDatabase]:
    """A server that is killed in the end: a graceful stop takes two seconds."""
    server = EmbeddedDatabase(data_dir, port)
    server.start()
    try:
        yield server
    finally:
        kill(server)


def kill(server: EmbeddedDatabase) -> None:
    if server.pid is not None:
        os.kill(server.pid, signal.SIGKILL)
    server.stop()


def port_of(uri: str) -> int:
    return int(parse_uri(uri)["nodelist"][0][1])


def listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = monotonic() + 10
    while not condition():
        assert monotonic() < deadline_s, "it did not come about within 10 s"
        sleep(0.01)


def test_data_outlive_stop_and_sigkill(tmp_path: Path) -> None:
    """What was written is there after a graceful stop and after SIGKILL right behind the write, on the same port."""
    server = EmbeddedDatabase(tmp_path)
    uri = server.start()
    with MongoClient[dict[str, Any]](uri) as client:
        client.t.c.insert_one({"_id": 1})
    server.stop()
    assert not server.is_alive
    assert server.start() == uri
    with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=100) as client:
        client.t.c.insert_one({"_id": 2})
        kill(server)
    assert server.start() == uri
    with MongoClient[dict[str, Any]](uri) as client:
        assert [document["_id"] for document in client.t.c.find(sort=["_id"])] == [1, 2]
    kill(server)


def test_two_servers_on_one_directory_are_refused_and_the_first_lives_on(tmp_path: Path) -> None:
    """The second start says what is wrong; the first server does not notice."""
    with running(tmp_path) as first:
        with pytest.raises(FatalError) as caught:
            EmbeddedDatabase(tmp_path).start()
        assert caught.value.code == "database_in_use"
        assert str(tmp_path) in caught.value.message
        first.check_health()


def test_it_is_reached_on_loopback_alone_and_says_so_in_its_log(tmp_path: Path) -> None:
    """127.0.0.1 answers and 127.0.0.2, which 0.0.0.0 would answer for, does not; the port asked for is the one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with running(tmp_path, port) as server:
        assert port_of(server.uri) == port
        assert listens("127.0.0.1", port)
        assert not listens("127.0.0.2", port)
        assert f"127.0.0.1:{port}" in (tmp_path / "server.log").read_text()


def test_a_dead_server_is_unhealthy(tmp_path: Path) -> None:
    """Health is told by asking: well while it runs, DatabaseUnavailable once it is gone or where none was started."""
    with pytest.raises(DatabaseUnavailable):
        EmbeddedDatabase(tmp_path).check_health()
    with running(tmp_path) as server:
        server.check_health()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.is_alive)
        with pytest.raises(DatabaseUnavailable):
            server.check_health()


def test_a_port_that_is_taken_and_a_directory_that_is_none_fail_the_start(tmp_path: Path) -> None:
    """Both end the start at once with the reason, and nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = EmbeddedDatabase(tmp_path / "data", other.getsockname()[1])
        with pytest.raises(FatalError, match="in use") as caught:
            server.start()
        assert caught.value.code == "database_start"
        assert not server.is_alive
    (tmp_path / "file").touch()
    with pytest.raises(FatalError, match="directory"):
        EmbeddedDatabase(tmp_path / "file").start()


def test_stop_without_a_server_does_nothing(tmp_path: Path) -> None:
    """Stopping is safe before the start, and twice."""
    server = EmbeddedDatabase(tmp_path / "never")
    server.stop()
    server.stop()
    assert not (tmp_path / "never").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_it_dies_with_its_parent_and_reads_nobody_else_s_settings(tmp_path: Path) -> None:
    """SIGKILL on the parent ends the server, though the thread that called start ended before; its lock is gone.

    Settings of others lie where the server would look for them by itself, all broken: it starts nonetheless.
    """
    for folder in (tmp_path, tmp_path / ".secantus"):
        folder.mkdir(exist_ok=True)
        (folder / "secantusd.toml").write_text("broken")
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "data")]
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        port = port_of(parent.stdout.readline().strip())
        assert listens("127.0.0.1", port)
        parent.kill()
    wait_until(lambda: not listens("127.0.0.1", port))
    with running(tmp_path / "data", port) as server:
        server.check_health()
