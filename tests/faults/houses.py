"""The test's side of a house: starts it, talks to it, kills in it, and sees that nothing of it is left."""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil

from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from gary.config import AppArgs
from gary.tasks.embedded import EmbeddedDatabase
from tests.faults.application import DOORS, WIRE, HouseSpec
from tests.faults.doors import Doors
from tests.faults.ledger import Books, Case, Report
from tests.faults.waiting import must, until
from tests.faults.wire import Wire
from tests.media import MediaServer
from tests.running import ROOT, app_args, free_port

_MARK = "GARY_FAULTS_HOUSE"
_GONE_S = 20.0
WORKERS = ("MusicGen-tiny", "Fetcher", "Cropper", "Conductor")


@dataclass(frozen=True)
class Plan:
    """How a house differs from the usual one.

    Attributes:
        args: in the place of AppArgs' own.
        dashboard: whether it is deployed by `serve deploy`, as in production; else from the house's own process.
        path: a directory before PATH.
        small_disk: "tmp" or "data": what lies on a disk of `small_disk_bytes`.
        gpu_nodes: with any, a head and so many nodes with GPUs, shaped and used as production's files say.
        autoscaling: of MusicGen-tiny.
        own_database: whether the service owns its database; else it is told of one that somebody else runs.
    """

    args: dict[str, Any] = field(default_factory=dict)
    nodes: int = 1
    gpu_nodes: int = 0
    autoscaling: dict[str, Any] | None = None
    replicas: dict[str, int] = field(default_factory=lambda: {"Ingress": 2, "Conductor": 2})
    dashboard: bool = False
    path: Path | None = None
    small_disk: str | None = None
    small_disk_bytes: int = 0
    own_database: bool = True


@dataclass(frozen=True)
class Ground:
    """What a house stands on, and the next one after it.

    Attributes:
        root: of all its files, the database's among them; a short name, since sockets lie there.
        database_port: of the server, which is the house's; the wire leads there.
    """

    root: Path
    database_port: int
    wire: Wire
    books: Books

    @classmethod
    def take(cls) -> Ground:
        root, port = Path(tempfile.mkdtemp(prefix="gf-", dir="/tmp")), free_port()
        wire = Wire(port)
        return cls(root, port, wire, Books(f"mongodb://127.0.0.1:{port}/", wire))

    def leave(self) -> None:
        self.books.close()
        self.wire.close()
        until(self._is_cleared, _GONE_S)

    def _is_cleared(self) -> bool:
        """Removes what is there; a process that just ended may still have made a file."""
        shutil.rmtree(self.root, ignore_errors=True)
        return not self.root.exists()


class House:
    """A running service.

    Args:
        ground: outlives the house.
    """

    def __init__(self, ground: Ground, plan: Plan, media: MediaServer) -> None:
        self.ground, self.plan, self.media = ground, plan, media
        self.root, self.wire, self.books = ground.root, ground.wire, ground.books
        self.tmp = self.root / "tmp"
        self.tmp.mkdir(exist_ok=True)
        (self.root / "data").mkdir(exist_ok=True)
        self.doors = Doors(self.root / "doors")
        self.args = self._args(ground.database_port)
        self._database = None if plan.own_database else EmbeddedDatabase(self.root / "data", ground.database_port)
        if self._database is not None:
            self._database.start()
        self._song_url = media.put("/song.wav", song_wav())
        self._mark = uuid4().hex
        port = free_port()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self._process = self._start(port)
        try:
            self._listen()
        except BaseException:
            self.kill_everything()
            raise

    def _args(self, database_port: int) -> AppArgs:
        usual = {"tasks": {"lease_s": 4.0, "sweep_s": 0.5, "progress_s": 0.1}}
        args = app_args(self.media, self.root / "data", **usual | self.plan.args)
        uri = None if self.plan.own_database else f"mongodb://127.0.0.1:{database_port}/"
        database = args.database.model_copy(update={"uri": uri, "port": database_port, "timeout_s": 2.0})
        return args.model_copy(update={"database": database})

    def _start(self, port: int) -> subprocess.Popen[str]:
        spec = HouseSpec(
            args=self.args,
            port=port,
            temp_dir=self.root / "ray",
            nodes=self.plan.nodes,
            gpu_nodes=self.plan.gpu_nodes,
            autoscaling=self.plan.autoscaling,
            replicas=self.plan.replicas,
            dashboard_port=free_port() if self.plan.dashboard else None,
            small_disk=self.root / self.plan.small_disk if self.plan.small_disk else None,
            small_disk_bytes=self.plan.small_disk_bytes,
        )
        spec.temp_dir.mkdir(exist_ok=True)
        spec_file = self.root / "spec.json"
        spec_file.write_text(spec.model_dump_json())
        path = f"{self.plan.path}:{os.environ['PATH']}" if self.plan.path else os.environ["PATH"]
        env = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
        env |= {"PATH": path, "TMPDIR": str(self.tmp), "RAY_TMPDIR": str(self.root), _MARK: self._mark}
        env |= {WIRE: self.wire.uri, DOORS: str(self.root / "doors")}
        own_mounts = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
        command = [sys.executable, "-m", "tests.faults.house", str(spec_file)]
        with (self.root / "house.log").open("ab") as log:
            return subprocess.Popen(
                [*(own_mounts if self.plan.small_disk else ()), *command],
                cwd=ROOT,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def _listen(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the house ended: {(self.root / 'house.log').read_text()[-4000:]}"
        return json.loads(line)

    def ask(self, do: str, **more: Any) -> Any:
        """Has the house's own process do something; see tests.faults.house."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self._process.stdin.flush()
        return self._listen()

    # Its processes

    def replicas(self, deployment: str) -> list[int]:
        """Processes of a deployment's living replicas."""
        return [replica["pid"] for replica in self.ask("replicas") if replica["deployment"] == deployment]

    def server(self) -> psutil.Process:
        """The database server's process."""
        servers = [process for process in self.processes() if "secantusd-py" in " ".join(process.cmdline())]
        (server,) = [process for process in servers if process.is_running()]
        return server

    def processes(self) -> list[psutil.Process]:
        """Every living process of the house, orphans included."""
        found = {process.pid: process for process in psutil.process_iter() if self._is_ours(process)}
        for process in list(found.values()):
            try:
                found |= {child.pid: child for child in process.children(recursive=True)}
            except psutil.Error:
                continue
        return [process for process in found.values() if _lives(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(_MARK) == self._mark
        except psutil.Error:
            return False

    def children(self, deployment: str) -> list[psutil.Process]:
        """Of a deployment's replicas: downloads and ffmpegs under way."""
        parents = [psutil.Process(pid) for pid in self.replicas(deployment)]
        return [child for parent in parents for child in parent.children(recursive=True) if _lives(child)]

    # What a client does

    @contextmanager
    def case(self, report: Report, breaks: str, points: str) -> Iterator[Case]:
        """A row of the table. Every task of it ends, once, and what is completed can be heard."""
        with self.books.case(report, breaks, points) as case:
            yield case
        for task_id in self.books.completed(case.accepted):
            answer = self.http.get(f"/fetch-result/{task_id}").json()
            assert answer["status"] == "completed"
            assert base64.b64decode(answer["audio"]).startswith(b"RIFF")

    def post(self, case: Case, url: str | None = None, timeout_s: float = 60.0, **body: Any) -> httpx.Response:
        """A short piece of music, unless `body` says otherwise; an id that is answered goes into the case's book."""
        short = {"url": url or self._song_url, "currentTime": 1, "promptLength": 1, "duration": "3-4"}
        answer = self.http.post("/generate", json=short | body, timeout=timeout_s)
        if answer.status_code == httpx.codes.OK:
            case.accepted.append(answer.json()["task_id"])
        return answer

    def is_whole(self) -> bool:
        """Whether every deployment has as many replicas as it should, and the service says that it is live."""
        try:
            if self.http.get("/health").status_code != httpx.codes.OK:
                return False
        except httpx.TransportError:
            return False
        living = [replica["deployment"] for replica in self.ask("replicas")]
        names = [*WORKERS, "Ingress"] + ["Database"] * self.plan.own_database
        return all(living.count(name) >= self.plan.replicas.get(name, 1) for name in names)

    def wait_until_whole(self) -> None:
        must(self.is_whole, "a whole house")

    def check_nothing_leaks(self) -> None:
        """No download or ffmpeg goes on, no temporary file is left, named or not."""

        def left() -> list[str]:
            working = [" ".join(c.cmdline()) for name in ("Fetcher", "Cropper") for c in self.children(name)]
            files = [path.name for path in self.tmp.glob("gary-*")]
            unnamed = [name for pid in self.replicas("Cropper") for name in _deleted_files(pid, self.tmp)]
            return working + files + unnamed

        until(lambda: not left(), 15.0)
        assert left() == []

    # Its end

    def kill_everything(self) -> int:
        """SIGKILL to all at once; how many processes that were."""
        killed = 0
        while processes := self.processes():
            for process in processes:
                process.suspend()  # so that none of them sees another die
            for process in processes:
                process.kill()
            killed += len(processes)
            psutil.wait_procs(processes, 5)
            self._process.poll()
        self._process.wait()
        self._close_ends()
        return killed

    def close(self) -> None:
        """Ends the house as Ctrl-C would. Nothing of it may be left, and nothing is."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
            until(lambda: not self.processes(), _GONE_S)
            left = [" ".join(process.cmdline()) for process in self.processes()]
        finally:
            self.kill_everything()
        assert left == [], f"outlived its house: {left}"

    def _close_ends(self) -> None:
        self.http.close()
        if self._database is not None:
            self._database.stop()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue


class Landlord:
    """Lets one house at a time: two cores do not hold two. Whoever asks for another ends the one before."""

    def __init__(self, media: MediaServer) -> None:
        self._media = media
        self._house: House | None = None
        self._shared: House | None = None
        self._grounds: list[Ground] = []

    def shared(self) -> House:
        """The house of those who leave it whole."""
        if self._shared is None or self._house is not self._shared:
            self._shared = self.let(Plan())
        return self._shared

    def let(self, plan: Plan) -> House:
        """A new house, with a new database."""
        self.vacate()
        self._grounds.append(Ground.take())
        self._house = House(self._grounds[-1], plan, self._media)
        return self._house

    def rebuild(self, house: House) -> House:
        """A house that was killed, anew on the same ground: its data, its port, its wire."""
        self._house = House(house.ground, house.plan, self._media)
        return self._house

    def vacate(self) -> None:
        """The house ends, if one is let. What lies on its ground stays."""
        house, self._house = self._house, None
        if house is not None:
            house.close()

    def leave(self) -> None:
        """The last house ends, and with it all that lay on the grounds."""
        try:
            self.vacate()
        finally:
            for ground in self._grounds:
                ground.leave()


@functools.cache
def song_wav() -> bytes:
    """About 11 s of drum and bass, mono."""
    return encode_wav(Clip(make_loop(174.0, 8, "drum-and-bass", rate_hz=44_100, seed=4)[None], 44_100))


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _deleted_files(pid: int, directory: Path) -> list[str]:
    """Unlinked files of a directory that a process holds open."""
    names = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            names.append(os.readlink(link))
        except FileNotFoundError:
            continue
    return [name for name in names if name.startswith(str(directory)) and name.endswith("(deleted)")]
