"""Clients of the old kind, in a closed loop, and the two desks that they stand at: today's, and our service's.

A client asks for one answer, looks every two seconds as the old clients do (its task and the progress), and asks for
the next as soon as it has the last. It knows nothing of who makes them.
"""

from __future__ import annotations

import asyncio
import base64
import io
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import httpx
import soundfile
from bson import ObjectId
from pymongo import AsyncMongoClient

from benchmarks.incumbent_worker import DATABASE, Document

POLL_S = 2.0


@dataclass(frozen=True)
class Ask:
    """One job.

    Attributes:
        model: whatever the desk calls it.
        prompt_s: of the audio at `url`, from its start.
        length_s: of the answer, prompt included.
    """

    url: str
    model: str
    prompt_s: float
    length_s: float

    @property
    def body(self) -> dict[str, Any]:
        """As `/generate` takes it, numbers as strings where the old clients send strings."""
        length = f"{self.length_s:g}"
        return {
            "url": self.url,
            "currentTime": 0,
            "model": self.model,
            "promptLength": f"{self.prompt_s:g}",
            "duration": f"{length}-{length}",
        }


class Desk(Protocol):
    """Where a client asks."""

    async def submit(self, ask: Ask) -> str:
        """The id of a new task."""
        ...

    async def look(self, task_id: str) -> bytes | None:
        """One look at a task: the WAV once there is one.

        Raises:
            RuntimeError: the task failed.
        """
        ...


@dataclass(frozen=True)
class Load:
    """What a load got: so many answers in the clients' hands, `wall_s` after the first was asked for."""

    answers: int
    wall_s: float

    @property
    def jobs_per_hour(self) -> float:
        return 3600 * self.answers / self.wall_s


async def closed_loop(desk: Desk, ask: Ask, clients: int, answers: int, poll_s: float = POLL_S) -> Load:
    """Runs so many clients until they have so many answers between them; what is under way then is left.

    Raises:
        ExceptionGroup: a task failed, or an answer was not of the length asked for.
    """
    times_s: list[float] = []
    enough = asyncio.Event()

    async def client() -> None:
        while True:
            wav = await _answer(desk, ask, poll_s)
            _check(wav, ask)
            times_s.append(perf_counter())
            if len(times_s) >= answers:
                enough.set()

    since_s = perf_counter()
    async with asyncio.TaskGroup() as group:
        loops = [group.create_task(client()) for _ in range(clients)]
        await enough.wait()
        for loop in loops:
            loop.cancel()
    return Load(answers, times_s[answers - 1] - since_s)


async def _answer(desk: Desk, ask: Ask, poll_s: float) -> bytes:
    task_id = await desk.submit(ask)
    while True:
        await asyncio.sleep(poll_s)
        if (wav := await desk.look(task_id)) is not None:
            return wav


def _check(wav: bytes, ask: Ask) -> None:
    info = soundfile.info(io.BytesIO(wav))
    if abs(info.frames / info.samplerate - ask.length_s) > 1 / info.samplerate:
        raise RuntimeError(f"the answer is {info.frames} samples at {info.samplerate} Hz, not {ask.length_s:g} s")


class IncumbentDesk:
    """Today's, less its HTTP: the documents themselves."""

    def __init__(self, client: AsyncMongoClient[Document]) -> None:
        self._database = client[DATABASE]

    async def submit(self, ask: Ask) -> str:
        body = ask.body
        task = {
            "status": "pending",
            "youtube_url": body["url"],
            "timestamp": float(body["currentTime"]),
            "model": body["model"],
            "promptLength": float(body["promptLength"]),
            "duration": body["duration"],
        }
        task_id = (await self._database["tasks"].insert_one(task)).inserted_id
        await self._database["queue"].insert_one({"task_id": task_id})
        return str(task_id)

    async def look(self, task_id: str) -> bytes | None:
        key = {"_id": ObjectId(task_id)}
        await self._database["progress"].find_one(key)
        return _audio(await self._database["tasks"].find_one(key) or {})


class ServiceDesk:
    """Ours, by the old clients' routes."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def submit(self, ask: Ask) -> str:
        answer = await self._http.post("/generate", json=ask.body)
        answer.raise_for_status()
        task_id: str = answer.json()["task_id"]
        return task_id

    async def look(self, task_id: str) -> bytes | None:
        (await self._http.get(f"/progress/{task_id}")).raise_for_status()
        answer = await self._http.get(f"/tasks/{task_id}")
        answer.raise_for_status()
        return _audio(answer.json())


def _audio(task: Document) -> bytes | None:
    match task.get("status"):
        case "pending":
            return None
        case "completed":
            return base64.b64decode(task["audio"])
        case _:
            raise RuntimeError(f"a task failed: {task.get('error', 'it is gone')}")
