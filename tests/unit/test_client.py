"""The client against a service on loopback: what it sends, what it makes of answers, what it does when things break."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gary.client import (
    Client,
    ClientError,
    Length,
    LinkSource,
    Order,
    Patience,
    Prompt,
    Refused,
    Sampling,
    ServiceFailed,
    ServiceUnreachable,
    State,
    StreamBroken,
    UploadSource,
)
from tests.fake_v1 import ANSWER_WAV, Answer, FakeService, as_json, fake_service, problem, ramp, samples_of, wav
from tests.running import free_port

ATTEMPTS = 3
QUICK = Patience(attempts=ATTEMPTS, pause_s=0.0)


@pytest.fixture
def house() -> Iterator[FakeService]:
    with fake_service() as service:
        yield service


@pytest.fixture
def client(house: FakeService) -> Iterator[Client]:
    with Client(house.base_url, patience=QUICK) as client:
        yield client


def test_a_link_is_sent_as_the_service_takes_it(house: FakeService, client: Client) -> None:
    """What was given is in the body, and what was not is left to the service."""
    order = Order(length=Length(bars=8, tempo_bpm=174), prompt=Prompt(side="head"), sampling=Sampling(top_k=50), seed=7)
    task = client.create(LinkSource(url="https://soundcloud.com/a/b", start_s=83.0), order)
    assert task.state is State.QUEUED
    assert house.requests[0].json == {
        "source": {"url": "https://soundcloud.com/a/b", "start_s": 83.0},
        "prompt": {"side": "head"},
        "length": {"bars": 8, "tempo_bpm": 174.0},
        "sampling": {"top_k": 50},
        "seed": 7,
    }


@pytest.mark.parametrize("as_file", [True, False])
def test_an_upload_goes_beside_its_json(house: FakeService, client: Client, tmp_path: Path, as_file: bool) -> None:
    """Byte for byte, from a file or from memory."""
    data = wav(ramp(0.5))
    path = tmp_path / "song.wav"
    path.write_bytes(data)
    client.create(UploadSource(), Order(takes=2), file=path if as_file else data)
    task, file = house.requests[0].parts
    assert task == ("task", b'{"source":{"upload":true},"takes":2}')
    assert file == ("file", data)


def test_a_file_goes_with_an_upload_alone(client: Client) -> None:
    """Neither is sent without the other."""
    with pytest.raises(ValueError, match="UploadSource"):
        client.create(UploadSource())
    with pytest.raises(ValueError, match="UploadSource"):
        client.create(LinkSource(url="https://youtu.be/x"), file=b"song")


def test_a_task_that_was_begun_is_not_begun_again(house: FakeService, client: Client, tmp_path: Path) -> None:
    """An answer that is lost is asked for again under the same key, the file from its beginning: one task."""
    path = tmp_path / "song.wav"
    path.write_bytes(wav(ramp(0.5)))
    house.lose_answer = [("POST", "/v1/tasks")]
    task = client.create(UploadSource(), file=path)
    first, second = house.requests
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.parts[1] == second.parts[1]
    assert list(house.tasks) == [task.id]


def test_two_tasks_have_two_keys(house: FakeService, client: Client) -> None:
    """The same order twice is two tasks."""
    source = LinkSource(url="https://youtu.be/x")
    assert client.create(source).id != client.create(source).id


def test_a_task_is_continued_from_a_stretch(house: FakeService, client: Client) -> None:
    parent = house.add(state="completed")
    child = client.continue_(parent, Order(seed=1), take=1, start_s=0.5, end_s=2.0)
    assert child.parent == parent
    assert house.requests[0].json == {"take": 1, "start_s": 0.5, "end_s": 2.0, "seed": 1}


def test_what_this_client_does_not_know_is_kept(house: FakeService, client: Client) -> None:
    """A newer service's task is read, and shown whole."""
    task_id = house.add(mood="bright", queue={"position": 1, "eta_s": None, "lane": "fast"})
    shown = client.get(task_id).model_dump(mode="json")
    assert shown["mood"] == "bright"
    assert shown["queue"]["lane"] == "fast"


def test_where_nothing_has_ever_answered_nothing_is_tried_twice() -> None:
    """It says what to do, and where it looked."""
    url = f"http://127.0.0.1:{free_port()}"
    with (
        Client(url, patience=Patience(attempts=3, pause_s=3600)) as client,
        pytest.raises(ServiceUnreachable) as caught,
    ):
        client.models()
    assert "gary serve" in str(caught.value)
    assert url in str(caught.value)


def test_lost_connections_are_made_again_and_counted(house: FakeService, client: Client) -> None:
    """One more than it is patient for is an error."""
    task_id = house.add()
    path = f"/v1/tasks/{task_id}"
    house.hang_up = [("GET", path)] * (ATTEMPTS - 1)
    assert client.get(task_id).id == task_id
    assert house.count("GET", path) == ATTEMPTS
    house.hang_up = [("GET", path)] * ATTEMPTS
    with pytest.raises(ServiceUnreachable):
        client.get(task_id)
    assert house.count("GET", path) == 2 * ATTEMPTS


@pytest.mark.parametrize(("status", "asked"), [(503, ATTEMPTS), (502, ATTEMPTS), (500, 1)])
def test_a_service_that_is_away_is_asked_again(house: FakeService, client: Client, status: int, asked: int) -> None:
    """One that failed is not."""
    house.answers["GET", "/v1/models"] = problem(status, "database_unavailable", "the task store does not answer")
    with pytest.raises(ServiceFailed) as caught:
        client.models()
    assert (caught.value.code, caught.value.status) == ("database_unavailable", status)
    assert house.count("GET", "/v1/models") == asked


def test_a_refusal_says_why(house: FakeService, client: Client) -> None:
    """Its sentence, its code, the fields that are wrong, and when to come back; it is not asked again."""
    errors = [{"field": "length.bars", "message": "at most 64"}]
    house.answers["POST", "/v1/tasks"] = problem(429, "queue_full", "too many wait", errors, Retry_After="12")
    with pytest.raises(Refused) as caught:
        client.create(LinkSource(url="https://youtu.be/x"))
    error = caught.value
    assert (error.message, error.code, error.status) == ("too many wait", "queue_full", 429)
    assert error.fields == (("length.bars", "at most 64"),)
    assert error.retry_after_s == 12
    assert house.count("POST", "/v1/tasks") == 1


def test_an_error_of_something_else_is_told_too(house: FakeService, client: Client) -> None:
    """A proxy's page has no code; the status stands for it. An answer of another program is said to be one."""
    house.answers["GET", "/v1/models"] = Answer(404, b"<html>", "text/html")
    with pytest.raises(Refused) as caught:
        client.models()
    assert caught.value.code == "http_404"
    house.answers["GET", "/v1/models"] = Answer(200, b'{"hello": "world"}')
    with pytest.raises(ServiceFailed) as failed:
        client.models()
    assert failed.value.code == "not_understood"


def test_health_is_told_when_it_is_bad(house: FakeService, client: Client) -> None:
    """503 is an answer to this question, with its words."""
    assert client.health().is_live
    house.answers["GET", "/health"] = as_json({"status": "down", "mongodb": "down"}, 503)
    health = client.health()
    assert not health.is_live
    assert health.model_dump()["mongodb"] == "down"


def test_cancelling_never_forgets(house: FakeService, client: Client) -> None:
    """DELETE of a task that is over would delete its music: also a lost answer and a task just completed do not."""
    done = house.add(state="completed")
    assert client.cancel(done).state is State.COMPLETED
    at_work = house.add()
    house.lose_answer = [("DELETE", f"/v1/tasks/{at_work}")]
    assert client.cancel(at_work).state is State.CANCELLED
    assert set(house.tasks) == {done, at_work}


def test_forgetting_never_cancels(house: FakeService, client: Client) -> None:
    """A task at work is refused; of a finished one nothing is left, also where the answer was lost."""
    at_work = house.add()
    with pytest.raises(Refused) as caught:
        client.forget(at_work)
    assert caught.value.code == "unfinished"
    assert house.tasks[at_work]["state"] != "cancelled"
    done = house.add(state="completed")
    house.lose_answer = [("DELETE", f"/v1/tasks/{done}")]
    client.forget(done)
    assert list(house.tasks) == [at_work]
    with pytest.raises(Refused):
        client.forget(done)


def test_audio_is_whole_or_not_there(house: FakeService, client: Client, tmp_path: Path) -> None:
    """An answer that stops halfway is fetched again; a file that cannot be had leaves nothing behind."""
    task_id = house.add(state="completed")
    route = ("GET", f"/v1/tasks/{task_id}/audio")
    path = tmp_path / "out.wav"
    house.cut_body = [route]
    assert client.save_audio(task_id, path) == len(ANSWER_WAV)
    assert path.read_bytes() == ANSWER_WAV
    path.unlink()
    house.cut_body = [route] * ATTEMPTS
    with pytest.raises(StreamBroken):
        client.save_audio(task_id, path)
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_written_and_stays_a_pipe(house: FakeService, client: Client, tmp_path: Path) -> None:
    """Only regular files are replaced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    client.save_audio(house.add(state="completed"), pipe)
    reader.join()
    assert got == [ANSWER_WAV]
    assert pipe.is_fifo()


def test_audio_that_is_not_ready_is_refused(house: FakeService, client: Client) -> None:
    with pytest.raises(Refused) as caught:
        client.audio(house.add())
    assert caught.value.code == "not_ready"


def test_live_audio_comes_whole_or_says_that_it_broke(house: FakeService, client: Client) -> None:
    """The same bytes as the stored file, of the length that was told; one that stops early is an error."""
    task_id = house.add(state="generating")
    with client.live(task_id) as live:
        assert b"".join(live.chunks) == ANSWER_WAV
        assert live.size_bytes == len(ANSWER_WAV)
    assert house.requests[-1].query == {"live": "1", "take": "0"}
    house.cut_body = [("GET", f"/v1/tasks/{task_id}/audio")]
    with client.live(task_id) as live, pytest.raises(StreamBroken):
        list(live.chunks)


def test_crop_and_join_send_files_and_bytes(house: FakeService, client: Client, tmp_path: Path) -> None:
    """In order, sample for sample; a lost answer is asked for again, since nothing is made twice."""
    path = tmp_path / "song.wav"
    path.write_bytes(wav(ramp(1.0)))
    house.lose_answer = [("POST", "/v1/audio/crop"), ("POST", "/v1/audio/join")]
    head = client.crop(path, 0.0, 0.25)
    tail = client.crop(path.read_bytes(), 0.25)
    assert "end_s" not in house.requests[-1].query
    assert samples_of(client.join([head, tail])) == ramp(1.0)
    assert samples_of(client.join([path, head])) == ramp(1.0) + samples_of(head)


def test_models_and_limits(client: Client) -> None:
    models = client.models()
    assert (models.default, models.models[0].max_new_s) == ("tiny", 120.0)
    assert client.limits()["takes_max"] == 8


def test_the_key_is_shown_and_a_url_is_checked(house: FakeService) -> None:
    """As a bearer's; an address that is none is refused before anything is sent."""
    with Client(house.base_url, "secret", QUICK) as client:
        client.models()
    assert house.requests[0].headers["authorization"] == "Bearer secret"
    for url in ("127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://[::1"):
        with pytest.raises(ValueError, match="no"):
            Client(url)


@pytest.mark.parametrize(
    "error",
    [
        ClientError("gone", "gone", 410),
        ServiceUnreachable("http://127.0.0.1:1", "refused"),
        ServiceFailed("broken", "internal", 500),
        StreamBroken("cut", "stream_broken"),
        Refused("no", "invalid_input", 400, [("seed", "too small")], 2.5),
    ],
)
def test_errors_survive_pickling(error: ClientError) -> None:
    """With their type and all their fields."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.args, str(again)) == (error.args, str(error))


@pytest.mark.parametrize("module", ["gary.client", "gary.cli.main"])
def test_importing_is_light(module: str) -> None:
    """None of what the service is made of comes with it."""
    heavy = "numpy torch ray audiocraft transformers pymongo fastapi librosa"
    code = f"import sys, {module}; print([name for name in '{heavy}'.split() if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
