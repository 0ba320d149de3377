"""`gary continue`, `generate` and `save` against a service that makes nothing: files, documents, exit codes."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from tests.cli.program import TIMEOUT_S, Gary
from tests.fake_v1 import (
    ANSWER_WAV,
    FAILED_STEPS,
    USUAL_STEPS,
    FakeService,
    fake_service,
    problem,
    ramp,
    samples_of,
    wav,
)
from tests.running import free_port


@pytest.fixture
def house() -> Iterator[FakeService]:
    with fake_service() as service:
        yield service


@pytest.fixture
def gary(house: FakeService, tmp_path: Path) -> Gary:
    (tmp_path / "song.wav").write_bytes(wav(ramp(2.5)))
    return Gary(tmp_path, house.base_url)


def test_a_file_is_continued(house: FakeService, gary: Gary) -> None:
    """The file of the README's command is there, its name on stdout, the way to it on stderr, a line a stage."""
    said = gary("continue", "song.wav", "--bars", "8", "--seed", "7", "-o", "out.wav")
    assert said.code == 0, said.err
    assert (gary.directory / "out.wav").read_bytes() == ANSWER_WAV
    assert said.text == "out.wav\n"
    asked = house.requests[0]
    assert dict(asked.parts)["file"] == (gary.directory / "song.wav").read_bytes()
    lines = said.err.splitlines()
    assert lines[1:3] == ["queued: number 2 in the queue, about 40 s", "fetching"]
    assert lines[3:6] == ["generating 0%: 10 s left", "generating 50%: 5 s left", "encoding"]
    assert lines[-1] == "3.0 s, new from 1.0 s on, 1 bar at 120.0 bpm"


def test_every_option_reaches_the_service(house: FakeService, gary: Gary) -> None:
    """As the words of the API; what is not said is left out."""
    options = "--at 1:02.5 --between 16-18 --prompt 4 --side cursor -m tiny -d jazz --seed 3 --takes 2"
    drawn = "--top-k 50 --top-p 0.9 --temperature 0.5 --cfg 2"
    said = gary("generate", "https://youtu.be/x", *options.split(), *drawn.split(), "-o", "out.mp3")
    assert said.code == 0, said.err
    assert house.requests[0].json == {
        "source": {"url": "https://youtu.be/x", "start_s": 62.5},
        "model": "tiny",
        "description": "jazz",
        "prompt": {"length_s": 4.0, "side": "cursor"},
        "length": {"min_s": 16.0, "max_s": 18.0},
        "sampling": {"top_k": 50, "top_p": 0.9, "temperature": 0.5, "cfg_coef": 2.0},
        "seed": 3,
        "takes": 2,
        "format": "mp3",
    }
    assert said.text.split() == ["out-take0.mp3", "out-take1.mp3"]
    formats = [asked.query["format"] for asked in house.requests if asked.path.endswith("/audio")]
    assert formats == ["mp3", "mp3"]


def test_a_task_is_continued_on_the_server(house: FakeService, gary: Gary) -> None:
    """From a stretch of a take, with nothing uploaded."""
    parent = house.add(state="completed")
    said = gary("continue", parent, "--from", "0:01", "--to", "2.5", "--take", "0", "--seconds", "4", "-o", "out.flac")
    assert said.code == 0, said.err
    body = {"take": 0, "start_s": 1.0, "end_s": 2.5, "length": {"seconds": 4.0}, "format": "flac"}
    assert house.requests[0].json == body


@pytest.mark.parametrize(("options", "front_s"), [([], 1.5), (["--at", "0.5"], 0.5), (["--side", "head"], 0.0)])
def test_the_whole_is_the_file_up_to_the_prompt_and_the_answer(gary: Gary, options: list[str], front_s: float) -> None:
    """Sample for sample; the prompt (1 s of 2.5) is not there twice."""
    said = gary("continue", "song.wav", "--whole", "-o", "out.wav", *options)
    assert said.code == 0, said.err
    assert samples_of((gary.directory / "out.wav").read_bytes()) == ramp(front_s) + samples_of(ANSWER_WAV)


def test_a_name_is_made_where_none_is_given(house: FakeService, gary: Gary) -> None:
    """Of the song and the task, so that nothing is written over."""
    names = [gary("continue", "song.wav").text.strip() for _ in range(2)]
    assert names[0] != names[1]
    assert all(name.startswith("song-continued-") and (gary.directory / name).exists() for name in names)


def test_programs_get_one_document(house: FakeService, gary: Gary) -> None:
    """The task as the service tells it, and the files."""
    said = gary("continue", "song.wav", "--json", "-o", "out.wav")
    document = said.document
    assert document["task"]["state"] == "completed"
    assert document["files"] == [{"take": 0, "path": "out.wav", "duration_s": 3.0}]


def test_a_task_that_fails_says_why(house: FakeService, gary: Gary) -> None:
    """Exit code 1, the service's sentence, the task as a document; no file."""
    house.steps = FAILED_STEPS
    said = gary("continue", "song.wav", "-o", "out.wav")
    assert said.code == 1
    assert "the model's device failed" in said.err
    document = gary("continue", "song.wav", "--json", "-o", "out.wav").document
    assert document["task"]["error"]["code"] == "device_failed"
    assert document["files"] == []
    assert not (gary.directory / "out.wav").exists()


def test_where_no_service_answers(gary: Gary) -> None:
    """Exit code 3 and how to start one, in words and as a document."""
    nowhere = Gary(gary.directory, f"http://127.0.0.1:{free_port()}")
    said = nowhere("generate", "https://youtu.be/x")
    assert said.code == 3
    assert "gary serve" in said.err
    assert said.out == b""
    said = nowhere("models", "--json")
    assert said.code == 3
    assert said.document["error"]["code"] == "unreachable"


def test_a_refusal_is_told_by_its_fields(house: FakeService, gary: Gary) -> None:
    """Exit code 4."""
    errors = [{"field": "length.bars", "message": "at most 64"}]
    house.answers["POST", "/v1/tasks"] = problem(400, "invalid_input", "1 field is wrong", errors)
    said = gary("generate", "https://youtu.be/x", "--bars", "65")
    assert said.code == 4
    assert said.err.splitlines() == ["error: 1 field is wrong", "  length.bars: at most 64"]
    error = gary("generate", "https://youtu.be/x", "--json").document["error"]
    assert (error["code"], error["status"], error["errors"]) == ("invalid_input", 400, errors)


@pytest.mark.parametrize(
    "arguments",
    [
        "continue nothing.mp3",
        "continue https://youtu.be/x",
        "continue song.wav --bars 8 --seconds 4",
        "continue song.wav --tempo 120",
        "continue song.wav --from 3",
        "continue song.wav -o out.xyz",
        "continue song.wav -o nowhere/out.wav",
        "continue song.wav -o - --json",
        "continue song.wav -o - --format mp3",
        "continue 000000000000000000000001 --whole",
        "generate https://youtu.be/x --at 1:99",
        "generate https://youtu.be/x --side left",
        "generate",
        "models --url nowhere",
    ],
)
def test_wrong_use_is_told_before_anything_is_asked(house: FakeService, gary: Gary, arguments: str) -> None:
    """Exit code 2."""
    said = gary(*arguments.split())
    assert said.code == 2, said.err
    assert said.err
    assert house.requests == []


def test_music_can_be_piped_while_it_is_made(house: FakeService, gary: Gary) -> None:
    """The WAV and nothing else on stdout, from a task that is not over."""
    house.steps = USUAL_STEPS[:3]
    said = gary("continue", "song.wav", "-o", "-")
    assert said.code == 0, said.err
    assert said.out == ANSWER_WAV
    assert next(iter(house.tasks.values()))["state"] == "generating"


def test_a_stream_whose_task_fails_is_an_error(house: FakeService, gary: Gary) -> None:
    """Exit code 1 and the reason that the task gives."""
    house.steps = FAILED_STEPS[:3]
    house.cut_body = [("GET", f"/v1/tasks/{1:024x}/audio")]
    house.cut_changes = FAILED_STEPS[3][1]
    said = gary("generate", "https://youtu.be/x", "-o", "-")
    assert said.code == 1
    assert len(said.out) < len(ANSWER_WAV)
    assert said.err.splitlines()[-1] == "error: the model's device failed"


def test_what_was_begun_is_fetched_later(house: FakeService, gary: Gary) -> None:
    """--detach prints the id and goes; `gary save` waits, and may keep one take alone."""
    task_id = gary("generate", "https://youtu.be/x", "--takes", "2", "--detach").text.strip()
    assert house.tasks[task_id]["state"] == "queued"
    said = gary("save", task_id, "--take", "1", "-o", "out.wav")
    assert (said.code, said.text) == (0, "out.wav\n")
    assert house.requests[-1].query == {"format": "wav", "take": "1"}
    assert gary("save", task_id, "--take", "2").code == 2


@pytest.mark.parametrize("arguments", [["-o", "out.wav"], ["--json"], ["-o", "-"]])
def test_ctrl_c_cancels_the_task(house: FakeService, gary: Gary, arguments: list[str]) -> None:
    """Exit code 130, and the service works no longer."""
    house.steps = USUAL_STEPS[:2]
    process = gary.start("continue", "song.wav", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    line = b""
    while not line.startswith(b"fetching"):
        line = process.stderr.readline()
        assert line, "it ended before it was interrupted"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, err
    (task,) = house.tasks.values()
    assert task["state"] == "cancelled"
    assert b"cancelled" in (out if "--json" in arguments else err)
    assert not (gary.directory / "out.wav").exists()


def test_ctrl_c_while_saving_leaves_the_task(house: FakeService, gary: Gary) -> None:
    """Who only waits for it does not end it."""
    house.steps = USUAL_STEPS[:2]
    task_id = house.add()
    process = gary.start("save", task_id, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline_s = monotonic() + TIMEOUT_S
    while house.tasks[task_id]["state"] != "fetching" and monotonic() < deadline_s:
        sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert house.tasks[task_id]["state"] == "fetching"


@pytest.mark.parametrize("more", [{}, {"NO_COLOR": "1"}])
def test_a_terminal_gets_a_bar_and_a_picture(gary: Gary, more: dict[str, str]) -> None:
    """Blocks for the music and a bar for the way; with NO_COLOR nothing is coloured."""
    shown = gary.on_terminal("continue", "song.wav", "-o", "out.wav", **more)
    assert "━" in shown
    assert set(shown) & set("▁▂▃▄▅▆▇█")
    assert "0:03" in shown
    assert ("\x1b[1;36m" in shown) == (not more)
