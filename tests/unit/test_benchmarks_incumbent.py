"""What the comparison with today's way of serving rests on: its clients, and its re-creation of that way."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pymongo import AsyncMongoClient

from benchmarks.incumbent_clients import Ask, IncumbentDesk, closed_loop
from benchmarks.incumbent_worker import DATABASE, READY, Document
from examples.loops import make_loop
from gary.tasks.embedded import EmbeddedDatabase
from tests.media import media_server

RATE_HZ = 32_000
TINY = str(Path(".models/gary-tiny").absolute())
ASK = Ask(url="http://127.0.0.1/loop.wav", model="m", prompt_s=1.0, length_s=2.0)


class CountingDesk:
    """Answers at the second look, and counts what is under way."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.looks: Counter[str] = Counter()
        self.under_way: set[str] = set()
        self.most_under_way = 0

    async def submit(self, ask: Ask) -> str:
        task_id = str(len(self.looks))
        self.looks[task_id] = 0
        self.under_way.add(task_id)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        return task_id

    async def look(self, task_id: str) -> bytes | None:
        self.looks[task_id] += 1
        if self.looks[task_id] < 2:
            return None
        self.under_way.remove(task_id)
        return self.answer


def wav(length_s: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(round(length_s * RATE_HZ)), RATE_HZ, format="WAV")
    return file.getvalue()


async def test_each_client_has_one_task_under_way() -> None:
    """So many clients keep so many tasks under way, never more, until there are as many answers as asked for."""
    desk = CountingDesk(wav(ASK.length_s))
    load = await closed_loop(desk, ASK, clients=3, answers=7, poll_s=0.001)
    assert load.answers == 7
    assert load.jobs_per_hour == pytest.approx(3600 * 7 / load.wall_s)
    assert desk.most_under_way == 3
    assert len(desk.looks) - len(desk.under_way) >= 7


async def test_a_short_answer_does_not_count() -> None:
    """An answer of another length than was asked for ends the load: the sides would not have done equal work."""
    with pytest.raises(ExceptionGroup) as caught:
        await closed_loop(CountingDesk(wav(1.9)), ASK, clients=2, answers=2, poll_s=0.001)
    assert caught.group_contains(RuntimeError, match="60800 samples")


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    """A database server with a worker at its queue."""
    database = EmbeddedDatabase(tmp_path)
    command = [sys.executable, "-m", "benchmarks.incumbent_worker", database.start(), "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline().strip() == READY
        yield database.uri
        os.killpg(worker.pid, signal.SIGTERM)
    database.stop()


async def test_the_incumbent_makes_one_answer_at_a_time(uri: str) -> None:
    """Two clients get answers of the length asked for, of which no two were made at the same time; a bad job fails."""
    loop = io.BytesIO()
    soundfile.write(loop, make_loop(120.0, 4, "rock", rate_hz=44_100, seed=4), 44_100, format="WAV")
    with media_server() as media:
        ask = Ask(media.put("/loop.wav", loop.getvalue()), TINY, 1.0, 2.0)
        async with AsyncMongoClient[Document](uri) as client:
            desk = IncumbentDesk(client)
            await closed_loop(desk, ask, clients=2, answers=3, poll_s=0.05)
            made = await client[DATABASE]["tasks"].find({"status": "completed"}).sort("began_at").to_list()
            progress = await client[DATABASE]["progress"].find_one({"_id": made[0]["_id"]})
            nowhere = Ask(f"http://{media.host}/nothing.wav", ask.model, 1.0, 2.0)
            with pytest.raises(ExceptionGroup) as caught:
                await asyncio.wait_for(closed_loop(desk, nowhere, clients=1, answers=1, poll_s=0.05), 60)
    assert len(made) >= 3
    assert all(before["ended_at"] <= after["began_at"] for before, after in pairwise(made))
    assert progress is not None
    assert progress["progress"] == 100.0
    assert caught.group_contains(RuntimeError, match="the work horse ended with status 1")
