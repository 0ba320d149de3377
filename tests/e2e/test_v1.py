"""/v1 over HTTP, by the client, with every part real but the weights."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from gary.client import Client, Length, LinkSource, Order, Prompt, Refused, State, Task, UploadSource
from tests.running import Running

SHORT = Order(model="gary-tiny", length=Length(seconds=1.5), prompt=Prompt(length_s=1.0), seed=5)


def _completed(client: Client, task: Task) -> Task:
    done = client.wait(task.id)
    assert done.state is State.COMPLETED, done.error
    return done


def _made(client: Client, song: bytes, **changes: Any) -> Task:
    return _completed(client, client.create(UploadSource(), SHORT.model_copy(update=changes), song))


def _samples(data: bytes) -> tuple[np.ndarray[Any, Any], int]:
    """[N, C] int16, and the rate."""
    return soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)  # type: ignore[no-any-return]


def test_music_is_heard_while_it_is_made(client: Client, song: bytes) -> None:
    """Samples arrive while the task is generating; in the end the stream is the stored file, byte for byte."""
    long = SHORT.model_copy(update={"length": Length(seconds=60)})
    task = client.create(UploadSource(), long, song)
    with client.live(task.id) as live:
        received = bytearray()
        while not any(received[44:]):
            received += next(live.chunks)
        assert client.get(task.id).state is State.GENERATING
        for chunk in live.chunks:
            received += chunk
        assert len(received) == live.size_bytes
    _completed(client, task)
    assert bytes(received) == client.audio(task.id)


def test_a_receipt_makes_the_same_samples_again(client: Client, song: bytes) -> None:
    """What a task says of itself is enough: another one made from it has the same file and the same receipt."""
    first = _made(client, song, description="drums", takes=2)
    assert first.receipt is not None
    asked = {name: value for name, value in first.request.items() if name != "source"}
    again = _completed(client, client.create(UploadSource(), Order.model_validate(asked), song))
    assert [take.wav_sha256 for take in again.takes] == [take.wav_sha256 for take in first.takes]
    assert again.receipt == first.receipt
    other = _made(client, song, description="drums", takes=2, seed=9)
    assert other.takes[0].wav_sha256 != first.takes[0].wav_sha256


def test_a_take_is_what_its_seed_alone_would_make(client: Client, song: bytes) -> None:
    """Takes share the work, and nothing else."""
    three = _made(client, song, takes=3)
    alone = _made(client, song, seed=7)
    assert [take.seed for take in three.takes] == [5, 6, 7]
    assert three.takes[2].wav_sha256 == alone.takes[0].wav_sha256
    assert len({take.wav_sha256 for take in three.takes}) == 3


def test_a_continuation_keeps_the_past_bit_for_bit(client: Client, song: bytes) -> None:
    """Also a stretch of it, and of a child's child; lineage stands in the tasks, and the parent stays as it was."""
    parent = _made(client, song)
    before, rate_hz = _samples(client.audio(parent.id))
    child = _completed(client, client.continue_(parent.id, SHORT))
    whole, _ = _samples(client.audio(child.id))
    assert np.array_equal(whole[: len(before)], before)
    assert len(whole) == len(before) + 1.5 * rate_hz
    grandchild = _completed(client, client.continue_(child.id, SHORT, start_s=1.0, end_s=3.0))
    stretch, _ = _samples(client.audio(grandchild.id))
    assert np.array_equal(stretch[: 2 * rate_hz], whole[rate_hz : 3 * rate_hz])
    assert (child.parent, grandchild.parent) == (parent.id, child.id)
    assert client.get(parent.id).children == (child.id,)
    assert client.audio(parent.id) == encode_wav(Clip((before.T / 32768).astype(np.float32), rate_hz))


def test_events_tell_every_change_of_state_again_to_whoever_was_away(client: Client, song: bytes) -> None:
    """From an id on, all changes after it; a listener that comes after the end hears the end."""
    task = client.create(UploadSource(), SHORT, song)
    heard = [event for event in client.events(task.id) if event.kind == "state"]
    states = [event.task.state for event in heard]
    assert states == [State.QUEUED, State.FETCHING, State.GENERATING, State.ENCODING, State.COMPLETED][-len(states) :]
    again = [event.task.state for event in client.events(task.id, heard[0].id) if event.kind == "state"]
    assert again == states[1:]


def test_a_cancelled_task_stops_and_a_finished_one_is_forgotten(client: Client, song: bytes) -> None:
    """Cancelled is final and has no audio; forgotten is unknown."""
    task = client.create(UploadSource(), SHORT.model_copy(update={"length": Length(seconds=100)}), song)
    assert client.cancel(task.id).state is State.CANCELLED
    with pytest.raises(Refused) as refused:
        client.audio(task.id)
    assert refused.value.status == 409
    client.forget(task.id)
    with pytest.raises(Refused) as refused:
        client.get(task.id)
    assert refused.value.code == "unknown_task"


def test_every_format_is_the_same_music(client: Client, song: bytes) -> None:
    """FLAC to the sample, MP3 and Opus to their length."""
    task = _made(client, song)
    wav, rate_hz = _samples(client.audio(task.id))
    flac, flac_rate_hz = _samples(client.audio(task.id, "flac"))
    assert flac_rate_hz == rate_hz
    assert np.array_equal(flac, wav)
    for lossy in ("mp3", "opus"):
        samples, lossy_rate_hz = _samples(client.audio(task.id, lossy))
        assert len(samples) / lossy_rate_hz == pytest.approx(len(wav) / rate_hz, abs=0.1)


def test_crop_and_join_are_exact(client: Client, song: bytes) -> None:
    """Two crops joined are what they were cut from."""
    whole, rate_hz = _samples(song)
    pieces = [client.crop(song, 0.5, 1.25), client.crop(song, 1.25)]
    joined, joined_rate_hz = _samples(client.join(pieces, "flac"))
    assert joined_rate_hz == rate_hz
    assert np.array_equal(joined, whole[round(0.5 * rate_hz) :])


def test_bars_are_those_of_the_link(client: Client, service: Running, song: bytes) -> None:
    """New music of whole bars at the tempo that was heard, after a prompt from the cursor on."""
    url = service.media.put("/v1-song.wav", song)
    order = SHORT.model_copy(update={"length": Length(bars=2)})
    task = _completed(client, client.create(LinkSource(url=url, start_s=1.0), order))
    assert task.music is not None
    assert task.music.tempo_bpm == pytest.approx(174.0, rel=0.01)
    assert task.music.source_s == pytest.approx(1.0)
    assert task.music.duration_s - task.music.source_s == pytest.approx(2 * 240 / 174.0, rel=0.01)


def test_an_old_clients_task_is_shown_and_continued(client: Client, service: Running, song: bytes) -> None:
    """Both interfaces see one house."""
    url = service.media.put("/old-song.wav", song)
    body = {"url": url, "promptLength": 1, "duration": "2-3"}
    old = httpx.post(f"{service.base_url}/generate", json=body).raise_for_status().json()["task_id"]
    parent = _completed(client, client.get(old))
    child = _completed(client, client.continue_(old, SHORT))
    before, _ = _samples(client.audio(parent.id))
    assert np.array_equal(_samples(client.audio(child.id))[0][: len(before)], before)
