"""Listeners that nobody may reach, a watch on processes, and the table that the part ends with."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import tests.api.conftest as api_parts
from gary.config import Limits

database_uri = api_parts.database_uri

_WATCH_S = 0.004


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    group: str
    case: str
    answer: str
    duration_s: float
    peak_mb: float


@dataclass
class Ledger:
    """What was sent and what came of it."""

    rows: list[Row] = field(default_factory=list)
    urls: int = 0
    files: int = 0
    contacts_outside: int = 0
    server_errors: int = 0

    def url(self, group: str, case: str, answer: str, duration_s: float = 0.0, peak_mb: float = 0.0) -> None:
        self.urls += 1
        self._add(group, case, answer, duration_s, peak_mb)

    def file(self, group: str, case: str, answer: str, duration_s: float, peak_mb: float) -> None:
        self.files += 1
        self._add(group, case, answer, duration_s, peak_mb)

    def _add(self, group: str, case: str, answer: str, duration_s: float, peak_mb: float) -> None:
        self.server_errors += answer.startswith("!")
        self.rows.append(Row(group, case, answer, duration_s, peak_mb))

    def summary(self) -> dict[str, float]:
        return {
            "urls": self.urls,
            "files": self.files,
            "contacts_outside": self.contacts_outside,
            "server_errors": self.server_errors,
            "worst_s": round(max((row.duration_s for row in self.rows), default=0.0), 2),
            "worst_mb": round(max((row.peak_mb for row in self.rows), default=0.0), 1),
        }


_LEDGER = pytest.StashKey[Ledger]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LEDGER] = Ledger()


def _ledger_of(config: pytest.Config) -> Ledger:
    return config.stash.setdefault(_LEDGER, Ledger())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    ledger = _ledger_of(config)
    if not ledger.rows:
        return
    terminalreporter.section("hostile input: case, answer, seconds, MB")
    for row in ledger.rows:
        line = f"{row.group:<9} {row.case:<58} {row.answer:<22} {row.duration_s:6.2f} {row.peak_mb:7.1f}"
        terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    ledger = _ledger_of(session.config)
    if ledger.contacts_outside or ledger.server_errors:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Pytest's own last line is out by now."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    ledger = _ledger_of(config)
    if reporter is not None and ledger.rows:
        reporter.write_line(json.dumps(ledger.summary()))


@pytest.fixture(scope="session")
def ledger(pytestconfig: pytest.Config) -> Ledger:
    return _ledger_of(pytestconfig)


@pytest.fixture
async def api(database_uri: str) -> AsyncIterator[api_parts.Api]:
    """The API without Ray, with the limits of production."""
    async with api_parts.opened_api(database_uri, Limits()) as opened:
        yield opened


class Outside:
    """Sockets on loopback that stand for everything that is not listed; whoever reaches one is counted."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._tcp: list[socket.socket] = []
        self._udp: list[socket.socket] = []
        self.port = self._listen(stack, "127.0.0.1", 0)
        for address in ("127.0.0.2", "::1"):
            self._listen(stack, address, self.port)
        for address in ("127.0.0.1", "127.0.0.2", "::1"):
            for port in (80, 443):
                self._listen(stack, address, port)

    def _listen(self, stack: contextlib.ExitStack, address: str, port: int) -> int:
        """Listens where it may: not every machine has ::1, and the web's ports belong to root or may be taken."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            tcp = stack.enter_context(socket.create_server((address, port), family=family, backlog=128))
        except OSError:
            assert port != 0, "loopback itself has to be there"
            return port
        found = int(tcp.getsockname()[1])
        udp = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        udp.bind((address, found))
        for one in (tcp, udp):
            one.setblocking(False)
        self._tcp.append(tcp)
        self._udp.append(udp)
        return found

    def contacts(self) -> int:
        """Who came since the last time."""
        count = 0
        for tcp in self._tcp:
            with contextlib.suppress(BlockingIOError):
                while True:
                    tcp.accept()[0].close()
                    count += 1
        for udp in self._udp:
            with contextlib.suppress(BlockingIOError):
                while True:
                    udp.recv(64)
                    count += 1
        return count


@pytest.fixture(scope="session")
def listeners() -> Iterator[Outside]:
    with contextlib.ExitStack() as stack:
        yield Outside(stack)


@pytest.fixture
def outside(listeners: Outside, ledger: Ledger) -> Iterator[Outside]:
    """Fails the test that lets anybody reach one of the listeners."""
    listeners.contacts()
    yield listeners
    contacts = listeners.contacts()
    ledger.contacts_outside += contacts
    assert contacts == 0


def descendants() -> list[int]:
    """All processes that this one has started and that are not reaped, with theirs."""
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        for listing in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                pids = [int(pid) for pid in listing.read_text().split()]
                found += pids
                waiting += pids
    return found


def _kib(pid: int | str, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def _command(pid: int | str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


class Watch:
    """The largest memory of a stretch of time: of any process that was started in it, or by how much we grew."""

    def __init__(self, before: frozenset[int]) -> None:
        self._before = before
        self._own_kib = _kib("self", "VmRSS")
        self._own_command = _command("self")
        self._peak_kib = 0
        self._began_s = time.perf_counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    def _look_on(self) -> None:
        while not self._ended.wait(_WATCH_S):
            for pid in set(descendants()) - self._before:
                if _command(pid) == self._own_command:  # between vfork and exec it shows our memory as its own
                    continue
                self._peak_kib = max(self._peak_kib, _kib(pid, "VmHWM"))
            self._peak_kib = max(self._peak_kib, _kib("self", "VmRSS") - self._own_kib)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.duration_s = time.perf_counter() - self._began_s
        self.peak_mb = self._peak_kib / 1024


@pytest.fixture
def watch() -> type[Watch]:
    return Watch


def open_files() -> list[str]:
    """What our descriptors lead to, but for the sockets and pipes that come and go with a loop."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(entry))
    return sorted(name for name in found if not name.startswith(("socket:", "anon_inode:", "/proc")))


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where temporary files go, for these tests alone."""
    folder = tmp_path_factory.mktemp("scratch")
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    yield folder
    tempfile.tempdir = before


@pytest.fixture
def nothing_left(scratch: Path) -> Iterator[None]:
    """Fails the test that leaves a process, a temporary file or a descriptor."""
    processes, files = set(descendants()), open_files()
    yield
    left = set(descendants()) - processes
    assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
    assert list(scratch.iterdir()) == []
    assert open_files() == files
