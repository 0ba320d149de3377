"""Somebody listens while whoever makes the music dies: the next attempt makes the same, and the stream goes on."""

from __future__ import annotations

from random import Random

import pytest

from gary.client import Client, Length, Order, Prompt, State, UploadSource
from tests.faults.houses import House, kill, song_wav
from tests.faults.ledger import Case, Report

BYTES_S = 2 * 32_000
LONG = Order(length=Length(seconds=90), prompt=Prompt(length_s=1), seed=3, takes=2)


@pytest.mark.parametrize("victim", ["MusicGen-tiny", "Conductor"])
def test_a_stream_goes_on(house: House, report: Report, chance: Random, victim: str) -> None:
    """Not one byte is missing, doubled or another: what was heard is what is stored."""
    with house.case(report, f"kill -9 {victim} under a listener", "generating") as case, _client(house) as client:
        task = client.create(UploadSource(), LONG, song_wav())
        case.accepted.append(task.id)
        _hear(case, client, task.id, house, victim, killed_after_s=chance.uniform(2, 20))
        done = client.wait(task.id)
        assert done.state is State.COMPLETED, done.error
        assert done.attempts == 2
    house.wait_until_whole()


def _hear(case: Case, client: Client, task_id: str, house: House, victim: str, killed_after_s: float) -> None:
    """Listens to the second take; kills when so many seconds of it were heard."""
    heard = bytearray()
    with client.live(task_id, take=1) as live:
        while len(heard) < killed_after_s * BYTES_S:
            heard += next(live.chunks)
        assert client.get(task_id).state is State.GENERATING
        kill(house.replicas(victim))
        for chunk in live.chunks:
            heard += chunk
        assert len(heard) == live.size_bytes
    assert client.wait(task_id).state is State.COMPLETED
    assert bytes(heard) == client.audio(task_id, take=1)
    case.note = f"{killed_after_s:.1f} s were heard before"


def _client(house: House) -> Client:
    return Client(str(house.http.base_url))
