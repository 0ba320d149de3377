"""`gary` against the real service: what only shows when both ends are the real ones."""

from __future__ import annotations

import io
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from examples.loops import make_loop
from gary.client import Client, Length, Order, Refused, State, UploadSource
from tests.cli.program import TIMEOUT_S, Gary
from tests.running import Running

BPM = 174.0
RATE_HZ = 32_000


@pytest.fixture
def gary(service: Running, tmp_path: Path) -> Gary:
    song = make_loop(BPM, 12, "drum-and-bass", rate_hz=44_100, seed=5)
    soundfile.write(tmp_path / "song.wav", song, 44_100, subtype="PCM_16")
    return Gary(tmp_path, service.base_url)


def test_a_song_goes_on_and_on(gary: Gary) -> None:
    """From a file to bars of its tempo; then from the task, with the music before it bit for bit; both are listed."""
    said = gary("continue", "song.wav", "--bars", "4", "--seed", "7", "--json", "-o", "out.wav")
    assert said.code == 0, said.err
    task = said.document["task"]
    assert task["seed"] == 7
    assert task["music"]["tempo_bpm"] == pytest.approx(BPM, rel=0.01)
    before, rate_hz = soundfile.read(gary.directory / "out.wav", dtype="int16")
    assert rate_hz == RATE_HZ
    new = 4 * 240 / task["music"]["tempo_bpm"]
    assert len(before) == round(task["music"]["source_s"] * RATE_HZ) + round(new * RATE_HZ)

    said = gary("continue", task["id"], "--seconds", "2", "--json", "-o", "more.flac")
    assert said.code == 0, said.err
    assert said.document["task"]["parent"] == task["id"]
    after, _ = soundfile.read(gary.directory / "more.flac", dtype="int16")
    assert len(after) == len(before) + 2 * RATE_HZ
    np.testing.assert_array_equal(after[: len(before)], before)
    assert gary("show", task["id"], "--json").document["children"] == [said.document["task"]["id"]]
    assert gary("tasks").text.count("song.wav") == 1


def test_the_same_seed_makes_the_same_file(gary: Gary) -> None:
    """Streamed while it is made, or fetched when it is done: the same bytes."""
    order = ("continue", "song.wav", "--seconds", "3", "--seed", "3")
    streamed = gary(*order, "-o", "-")
    assert streamed.code == 0, streamed.err
    assert gary(*order, "-o", "out.wav").code == 0
    assert (gary.directory / "out.wav").read_bytes() == streamed.out


def test_the_whole_is_the_song_and_its_answer(gary: Gary) -> None:
    """At the song's rate: all of it up to the prompt bit for bit, and then as long as the answer."""
    said = gary("continue", "song.wav", "--seconds", "2", "--prompt", "4", "--whole", "--json", "-o", "whole.wav")
    assert said.code == 0, said.err
    song, _ = soundfile.read(gary.directory / "song.wav")
    whole, rate_hz = soundfile.read(gary.directory / "whole.wav")  # floats: the answer was brought to another rate
    music = said.document["task"]["music"]
    kept = len(song) - round(music["prompt_s"] * 44_100)
    assert rate_hz == 44_100
    np.testing.assert_array_equal(whole[:kept], song[:kept])
    assert len(whole) == pytest.approx(kept + music["duration_s"] * 44_100, abs=2)


def test_ctrl_c_cancels_on_the_service(gary: Gary) -> None:
    """What nobody waits for is not made."""
    process = gary.start("continue", "song.wav", "--seconds", "100", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    line = b""
    while not line.startswith(b"generating"):
        line = process.stderr.readline()
        assert line, "it ended before it was interrupted"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    (listed,) = gary("tasks", "--json").document["tasks"]
    assert listed["state"] == "cancelled"


def test_refusals_come_from_the_service(gary: Gary) -> None:
    """Its sentence and its code, as a document and an exit code."""
    said = gary("generate", "https://example.com/song", "--json")
    assert (said.code, said.document["error"]["code"]) == (4, "unsupported_url")
    assert gary("continue", "song.wav", "--prompt", "1000", "-o", "x.wav").code == 4
    assert gary("show", "f" * 24).code == 4
    assert gary("models", "--json").document["models"]
    assert gary("health").code == 0


def test_the_client_follows_takes_and_forgets(service: Running, gary: Gary) -> None:
    """Two takes of one task are those of two seeds; progress only rises; a forgotten task is gone."""
    with Client(service.base_url) as client:
        order = Order(length=Length(seconds=2), seed=11, takes=2)
        song = gary.directory / "song.wav"
        task = client.create(UploadSource(), order, file=song)
        seen: list[tuple[State, float]] = []
        done = client.wait(task.id, lambda now: seen.append((now.state, now.progress.fraction if now.progress else 0)))
        assert done.state is State.COMPLETED, done.error
        fractions = [fraction for state, fraction in seen if state is State.GENERATING]
        assert fractions == sorted(fractions)
        assert [take.seed for take in done.takes] == [11, 12]
        alone = client.create(UploadSource(), order.model_copy(update={"seed": 12, "takes": 1}), file=song)
        client.wait(alone.id)
        assert client.audio(task.id, take=1) == client.audio(alone.id)
        mp3 = client.audio(task.id, "mp3")
        assert soundfile.info(io.BytesIO(mp3)).format == "MP3"
        client.forget(alone.id)
        with pytest.raises(Refused) as caught:
            client.get(alone.id)
        assert caught.value.code == "unknown_task"
        assert client.limits()


def test_what_was_left_at_work_is_fetched_later(gary: Gary) -> None:
    """Several at once, each kept when it is there."""
    ids = [gary("continue", "song.wav", "--seconds", "2", "--detach").text.strip() for _ in range(3)]
    for task_id in ids:
        said = gary("save", task_id, "-o", f"{task_id}.wav")
        assert said.code == 0, said.err
        assert (gary.directory / f"{task_id}.wav").exists()
