"""The other commands, against a service that makes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import Gary
from tests.fake_v1 import FakeService, as_json, fake_service, ramp, samples_of, wav

COMMANDS = "continue generate tasks show save cancel forget crop join models health serve demo"


@pytest.fixture
def house() -> Iterator[FakeService]:
    with fake_service() as service:
        yield service


@pytest.fixture
def gary(house: FakeService, tmp_path: Path) -> Gary:
    return Gary(tmp_path, house.base_url)


def test_tasks_are_those_that_were_begun_here(house: FakeService, gary: Gary) -> None:
    """Newest first, with what they go on from; another's are not listed, nor those that the service has forgotten."""
    house.add()
    begun = [gary("generate", f"https://youtu.be/{name}", "--detach").text.strip() for name in "abc"]
    del house.tasks[begun[0]]
    rows = [line.split("\t") for line in gary("tasks").text.splitlines()]
    assert [(row[0], row[-1]) for row in rows] == [(begun[2], "https://youtu.be/c"), (begun[1], "https://youtu.be/b")]
    listed = gary("tasks", "--json", "-n", "1").document["tasks"]
    assert [(task["id"], task["from"]) for task in listed] == [(begun[2], "https://youtu.be/c")]


def test_tasks_of_another_service_are_its_own(house: FakeService, gary: Gary) -> None:
    """What is remembered is remembered by service."""
    gary("generate", "https://youtu.be/a", "--detach")
    with fake_service() as other:
        said = gary("tasks", "--url", other.base_url)
    assert (said.code, said.out) == (0, b"")
    assert "no tasks" in said.err


def test_a_task_is_shown(house: FakeService, gary: Gary) -> None:
    """In words, and whole as a document."""
    task_id = house.add(state="completed", children=["f" * 24])
    rows = dict(line.split("\t") for line in gary("show", task_id).text.splitlines())
    assert rows["state"] == "completed"
    assert rows["length"] == "3.00 s, new from 1.00 s on"
    assert rows["gone on by"] == "f" * 24
    document = gary("show", task_id, "--json").document
    assert {name: document[name] for name in house.tasks[task_id]} == house.tasks[task_id]


def test_an_unknown_task_is_refused(gary: Gary) -> None:
    """Exit code 4, whatever is asked of it."""
    for command in ("show", "cancel", "forget", "save"):
        assert gary(command, "f" * 24).code == 4


def test_a_task_is_cancelled_and_then_forgotten(house: FakeService, gary: Gary) -> None:
    """Each says what it did."""
    task_id = house.add()
    assert gary("forget", task_id).code == 4
    said = gary("cancel", task_id)
    assert (said.code, said.text) == (0, f"task {task_id} is cancelled\n")
    assert gary("cancel", task_id, "--json").document["state"] == "cancelled"
    assert gary("forget", task_id, "--json").document == {"forgotten": task_id}
    assert house.tasks == {}


def test_models_are_listed(gary: Gary) -> None:
    assert gary("models").text.split("\t")[:3] == ["tiny (default)", "tiny", "loaded"]
    assert gary("models", "--json").document["models"][0]["max_new_s"] == 120.0


def test_health_is_an_exit_code(house: FakeService, gary: Gary) -> None:
    """0 while it is live, 3 when it is not."""
    assert gary("health").code == 0
    house.answers["GET", "/health"] = as_json({"status": "down", "mongodb": "down"}, 503)
    said = gary("health")
    assert (said.code, said.text) == (3, "status\tdown\nmongodb\tdown\n")
    assert gary("health", "--json").document["mongodb"] == "down"


def test_files_are_cropped_and_joined(gary: Gary) -> None:
    """Sample for sample."""
    (gary.directory / "song.wav").write_bytes(wav(ramp(2.0)))
    assert gary("crop", "song.wav", "--to", "0:01", "-o", "head.wav").code == 0
    assert gary("crop", "song.wav", "--from", "1", "-o", "tail.wav").code == 0
    said = gary("join", "head.wav", "tail.wav", "-o", "both.wav", "--json")
    assert said.document["path"] == "both.wav"
    assert samples_of((gary.directory / "both.wav").read_bytes()) == ramp(2.0)
    assert gary("crop", "nothing.wav", "-o", "out.wav").code == 2


@pytest.mark.parametrize("name", ["serve", "demo"])
def test_the_service_is_started_from_its_checkout(gary: Gary, name: str) -> None:
    """Its own script takes the process over: from a directory within, with what was given, with its exit code."""
    scripts = gary.directory / "scripts"
    scripts.mkdir()
    for script in ("serve", "demo"):
        (scripts / script).write_text(f'#!/bin/sh\necho {script} "$@"\nexit 7\n')
        (scripts / script).chmod(0o755)
    (gary.directory / "serve_config.dev.yaml").touch()
    (gary.directory / "deep").mkdir()
    within = Gary(gary.directory / "deep", gary.base_url)
    config = [str(gary.directory / "serve_config.dev.yaml"), "--port", "9000"] if name == "serve" else []
    said = within(name, *config)
    assert (said.code, said.text) == (7, " ".join([name, *config]) + "\n")


def test_help_tells_the_exit_codes(gary: Gary) -> None:
    """Each of them, and every command has a line."""
    text = gary("--help").text
    assert re.findall(r"^ *(\d+) ", text.split("Exit codes:")[1], re.MULTILINE) == ["0", "1", "2", "3", "4", "130"]
    for command in re.findall(r"\w+", COMMANDS):
        assert re.search(rf"│ {command} +\w", text), command


def test_completion_is_there(gary: Gary) -> None:
    """A shell's script, that knows the program's name."""
    assert "gary" in gary("--show-completion", "bash").text
