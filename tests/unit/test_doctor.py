"""The doctor: every check can be content, warn and fail, on machines that are made up; and it can ask a real one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pymongo import MongoClient

from examples.local import laptop_config
from gary.config import AppArgs
from gary.doctor.checks import GIB, GPU_QUERY
from gary.doctor.database import DatabaseAnswer, ask, ask_embedded
from gary.doctor.examination import examine
from gary.doctor.finding import Finding, Verdict
from gary.doctor.machine import Machine
from gary.doctor.report import run
from gary.errors import DatabaseUnavailable, GaryError, InvalidInput
from gary.tasks.embedded import EmbeddedDatabase

ROOT = Path(__file__).parents[2]
PRODUCTION = ROOT / "serve_config.yaml"
ANSWER = DatabaseAnswer(version="8.0.12", replica_set="gary", write_s=0.002, ahead_s=0.01)


@dataclass
class Imagined(Machine):
    """A good server with one GPU; tests take something from it."""

    gpus: str | None = "NVIDIA L4, 580.95.05, 23034, 512\n"
    memory: tuple[int, int] = (64 * GIB, 48 * GIB)
    shm: int = 32 * GIB
    disk: int = 500 * GIB
    files: tuple[int, int] = (65536, 65536)
    lacking: tuple[str, ...] = ()
    ffmpeg_path: Path | None = Path("/usr/bin/ffmpeg")
    encoders: str = " A....D libmp3lame  MP3\n A....D libopus  Opus\n"
    deno_says: str | None = "deno 2.9.8 (stable)\n"
    versions: dict[str, str] = field(default_factory=lambda: {"yt-dlp": "2026.11.20", "ray": "2.60.0"})
    answer: DatabaseAnswer | GaryError = ANSWER
    pages: dict[str, tuple[int, str] | None] = field(default_factory=dict)
    dirs: tuple[str, ...] = ("models--facebook--musicgen", "models--thepatch")
    variables: dict[str, str] = field(default_factory=lambda: {"MONGODB_URI": "mongodb://db/", "HF_HOME": "/data/hub"})

    def run(self, command: Sequence[str]) -> str | None:
        if tuple(command) == GPU_QUERY:
            return self.gpus
        if command[0].endswith("deno"):
            return self.deno_says
        return self.encoders if "-encoders" in command else "ffmpeg version 7.1.2 Copyright\n"

    def ffmpeg(self) -> Path | None:
        return self.ffmpeg_path

    def program(self, name: str) -> Path | None:
        return Path("/usr/bin") / name

    def package_version(self, name: str) -> str | None:
        return self.versions.get(name)

    def required(self, name: str) -> str | None:
        return {"ray": "2.60.0"}.get(name)

    def memory_bytes(self) -> tuple[int, int]:
        return self.memory

    def free_bytes(self, path: Path) -> int:
        return self.disk

    def shm_bytes(self) -> int:
        return self.shm

    def open_files(self) -> tuple[int, int]:
        return self.files

    def lacks(self) -> tuple[str, ...]:
        return self.lacking

    def is_free(self, port: int) -> bool:
        return not any(f":{port}/" in url for url in self.pages)

    def http(self, url: str) -> tuple[int, str] | None:
        return self.pages[url]

    def database(self, uri: str, name: str) -> DatabaseAnswer:
        if isinstance(self.answer, GaryError):
            raise self.answer
        return self.answer

    def embedded_database(self, data_dir: Path) -> DatabaseAnswer:
        return self.database("", "")

    def is_dir(self, path: Path) -> bool:
        return any(name in str(path) for name in self.dirs)

    def environment(self, name: str) -> str | None:
        return self.variables.get(name)

    def now(self) -> datetime:
        return datetime(2026, 11, 25, tzinfo=UTC)


def _args(**changes: Any) -> AppArgs:
    args = yaml.safe_load(PRODUCTION.read_text())["applications"][0]["args"]
    return AppArgs.model_validate(args | changes)


def _faults(machine: Machine, args: AppArgs | None = None) -> dict[str, Finding]:
    """What is not ok, by subject."""
    return {f.subject: f for f in examine(machine, args or _args()) if f.verdict is not Verdict.OK}


def _answer(**changes: Any) -> DatabaseAnswer:
    return replace(ANSWER, **changes)


def test_a_good_server_is_found_good() -> None:
    """No warning where there is nothing to do."""
    assert _faults(Imagined()) == {}


@pytest.mark.parametrize(
    ("machine", "subject", "verdict"),
    [
        (Imagined(gpus=None), "gpu", Verdict.FAIL),
        (Imagined(gpus="NVIDIA L4, 550.1, 23034, 512\n"), "gpu", Verdict.FAIL),
        (Imagined(memory=(8 * GIB, 4 * GIB)), "memory", Verdict.WARN),
        (Imagined(memory=(8 * GIB, GIB)), "memory", Verdict.FAIL),
        (Imagined(shm=GIB // 16), "shared memory", Verdict.WARN),
        (Imagined(files=(4096, 65536)), "open files", Verdict.WARN),
        (Imagined(files=(256, 256)), "open files", Verdict.FAIL),
        (Imagined(lacking=("Landlock",)), "confinement", Verdict.WARN),
        (Imagined(ffmpeg_path=None), "ffmpeg", Verdict.FAIL),
        (Imagined(encoders=" A....D libmp3lame  MP3\n"), "ffmpeg", Verdict.FAIL),
        (Imagined(versions={"ray": "2.60.0"}), "yt-dlp", Verdict.FAIL),
        (Imagined(versions={"ray": "2.60.0", "yt-dlp": "2026.9.1"}), "yt-dlp", Verdict.WARN),
        (Imagined(versions={"ray": "2.60.0", "yt-dlp": "2026.3.1.1"}), "yt-dlp", Verdict.FAIL),
        (Imagined(versions={"ray": "2.59.0", "yt-dlp": "2026.11.20"}), "ray", Verdict.FAIL),
        (Imagined(versions={"yt-dlp": "2026.11.20"}), "ray", Verdict.FAIL),
        (Imagined(deno_says=None), "deno", Verdict.FAIL),
        (Imagined(deno_says="deno 2.2.9\n"), "deno", Verdict.FAIL),
        (Imagined(answer=DatabaseUnavailable("the database does not answer")), "database", Verdict.FAIL),
        (Imagined(answer=_answer(replica_set=None)), "database", Verdict.WARN),
        (Imagined(answer=_answer(write_s=0.1)), "database", Verdict.WARN),
        (Imagined(answer=_answer(write_s=1.0)), "database", Verdict.FAIL),
        (Imagined(answer=_answer(ahead_s=-3.0)), "clock", Verdict.WARN),
        (Imagined(answer=_answer(ahead_s=90.0)), "clock", Verdict.FAIL),
        (Imagined(dirs=("models--facebook",)), "model thepatch/hoenn_lofi", Verdict.WARN),
        (Imagined(pages={"http://127.0.0.1:8000/health": None}), "port 8000", Verdict.FAIL),
        (Imagined(pages={"http://127.0.0.1:8265/api/version": (404, "nginx")}), "port 8265", Verdict.FAIL),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_is_found(machine: Imagined, subject: str, verdict: Verdict) -> None:
    """With that verdict, and with something to do; only models' faults may come in company."""
    faults = _faults(machine)
    assert faults[subject].verdict is verdict
    assert faults[subject].advice
    assert {name.split()[0] for name in faults} == {subject.split(maxsplit=1)[0]}


def test_a_full_disk_is_found_wherever_something_is_kept() -> None:
    """Of temporary files and of weights."""
    assert [f.verdict for f in _faults(Imagined(disk=10 * GIB)).values()] == [Verdict.WARN] * 2
    assert [f.verdict for f in _faults(Imagined(disk=GIB)).values()] == [Verdict.FAIL] * 2


def test_a_laptop_needs_no_gpu_and_no_replica_set() -> None:
    """What is a fault on a server is none where the config does not ask for it; stand-ins lie in a directory."""
    args = AppArgs.model_validate(laptop_config()["applications"][0]["args"])
    machine = Imagined(gpus=None, variables={}, answer=_answer(replica_set=None), dirs=("gary-demo",))
    assert _faults(machine, args) == {}
    assert _faults(Imagined(dirs=()), args)["model .models/gary-demo"].verdict is Verdict.FAIL


def test_a_model_that_may_not_be_fetched_must_be_there() -> None:
    """Without the hub a missing model is no matter of waiting."""
    faults = _faults(Imagined(dirs=()), _args(engine={"hub_offline": True, "device": "cuda"}))
    assert {f.verdict for f in faults.values()} == {Verdict.FAIL}
    assert len(faults) == len({model.checkpoint for model in _args().models})


@pytest.mark.parametrize(
    "page", [(200, '{"mongodb":"live"}'), (503, '{"mongodb":"down"}'), (401, "a key is needed")], ids=str
)
def test_a_port_that_the_service_holds_is_in_order(page: tuple[int, str]) -> None:
    assert _faults(Imagined(pages={"http://127.0.0.1:8000/health": page})) == {}


def test_the_report_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """Both tell the same; the exit code is 1 where something will not work, and 0 where there are warnings alone."""
    broken, slow = Imagined(deno_says=None), Imagined(answer=_answer(write_s=0.1))
    assert (run(broken, PRODUCTION), run(slow, PRODUCTION)) == (1, 0)
    lines = capsys.readouterr().out
    assert "fail  deno" in lines
    assert "warn  database" in lines
    assert run(broken, PRODUCTION, as_program=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert [f["subject"] for f in report["findings"] if f["verdict"] == "fail"] == ["deno"]


@pytest.mark.parametrize("text", [None, "a: [", "applications: []", "applications: [{args: {models: []}}]"], ids=str)
def test_a_config_that_is_none_is_refused(tmp_path: Path, text: str | None) -> None:
    """By an error that names the file."""
    path = tmp_path / "serve.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidInput, match=r"serve\.yaml"):
        run(Imagined(), path)


def test_a_real_database_is_asked_and_left_as_it_was(uri: str) -> None:
    """Its clock is this machine's; nothing of the doctor's stays in it."""
    answer = ask(uri, "doctor-was-here")
    assert 0 < answer.write_s < 5
    assert abs(answer.ahead_s) < 1
    client: MongoClient[dict[str, Any]]
    with MongoClient(uri) as client:
        assert client["doctor-was-here"].list_collection_names() == []


def test_the_embedded_database_is_tried_beside_the_data(tmp_path: Path) -> None:
    """The data that are there are not opened, and nothing is left."""
    data_dir = tmp_path / "database"
    data_dir.mkdir()
    (data_dir / "store").touch()
    assert ask_embedded(data_dir).write_s > 0
    assert [path.name for path in data_dir.iterdir()] == ["store"]


def test_a_server_that_has_gone_is_said_to_be_away(tmp_path: Path) -> None:
    """Its error is ours, so that the report goes on."""
    server = EmbeddedDatabase(tmp_path)
    uri = server.start()
    server.stop()
    with pytest.raises(DatabaseUnavailable):
        ask(uri, "gary", timeout_s=0.2)


def test_this_machine_answers() -> None:
    """The real one: numbers are plausible, what is not there is None, and nothing raises."""
    machine = Machine()
    total, available = machine.memory_bytes()
    assert 0 < available <= total
    assert machine.free_bytes(Path("/no/such/place")) > 0
    assert machine.run(("no-such-program",)) is None
    assert machine.run(("false",)) is None
    assert machine.package_version("no-such-package") is None
    assert machine.required("ray") == machine.package_version("ray")
