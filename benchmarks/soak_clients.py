"""Clients of every kind, as many as asked for, each doing one thing after another, drawn from its own seed.

They know that a service may be away: a POST that makes a task is repeated, under the same Idempotency-Key, until it is
answered; a refusal with Retry-After is waited out. What no client should ever be answered is noted as wrong.
"""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Any
from uuid import uuid4

import httpx

from benchmarks.soak_ledger import Ledger
from gary.errors import DatabaseUnavailable, UnknownTask
from gary.tasks.store import TaskStore

Body = dict[str, Any]
LONGEST = "28-30"
_LENGTHS = ("3-4", "3-4", "3-4", "5-8", "5-8", "12-16", LONGEST)  # seconds
_UNAVAILABLE = frozenset({500, 502, 503, 504})
_ANSWER_TIMEOUT_S = 60.0
_RESULT_TIMEOUT_S = 180.0


@dataclass
class Tally:
    """What the clients were answered.

    Attributes:
        answers: by route and status; status 0 is no answer.
        wrong: what none should ever be answered, the first few in words.
        wrong_count: all of it.
        latencies_s: from a task's acceptance to its audio in the client's hands.
    """

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    wrong_count: int = 0
    latencies_s: list[float] = field(default_factory=list)

    def note_wrong(self, what: str) -> None:
        self.wrong_count += 1
        if len(self.wrong) < 20:
            self.wrong.append(what)


@dataclass(frozen=True)
class Material:
    """What clients send.

    Attributes:
        songs: URLs of audio.
        no_songs: URLs of what is missing, or no audio.
        clips: base64 of short audio files.
        bound: how many tasks the service takes.
    """

    songs: tuple[str, ...]
    no_songs: tuple[str, ...]
    clips: tuple[str, ...]
    bound: int


class Load:
    """All clients. They wait until `open`, and `close` lets each end what it is at.

    Args:
        store: by which tasks are cancelled.
    """

    def __init__(self, base_url: str, store: TaskStore, ledger: Ledger, material: Material, seed: int) -> None:
        self.base_url, self.store, self.ledger, self.material, self.seed = base_url, store, ledger, material, seed
        self.tally = Tally()
        self.calm = True  # nothing is broken at present: an answer of 5xx is wrong
        self.active = 0
        self._opened, self._closed = asyncio.Event(), asyncio.Event()
        self._closed.set()

    def open(self) -> None:
        self._closed.clear()
        self._opened.set()

    def close(self) -> None:
        self._opened.clear()
        self._closed.set()

    async def peak(self) -> None:
        """As many of the longest pieces at once as the service takes: no more memory is asked for at any other time."""
        async with self._http() as http:
            await Client(self, http, Random(f"{self.seed} peak")).crowd(LONGEST)

    async def run(self, clients: int) -> None:
        """Until it is cancelled. What a client raises is a bug of the soak and ends it."""
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self._live(Random(f"{self.seed} client {number}")))

    async def _live(self, chance: Random) -> None:
        async with self._http() as http:
            client = Client(self, http, chance)
            while True:
                await self._opened.wait()
                with self._at_work():
                    await client.visit()
                await asyncio.sleep(chance.uniform(0.2, 2.0))

    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.base_url, timeout=_ANSWER_TIMEOUT_S)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    async def wait(self, pause_s: float) -> None:
        """So long, or until the load ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._closed.wait()


class Client:
    """One of them.

    Args:
        http: its own connections.
    """

    def __init__(self, load: Load, http: httpx.AsyncClient, chance: Random) -> None:
        self._load, self._http, self._chance = load, http, chance
        self._tally, self._ledger, self._material = load.tally, load.ledger, load.material
        self._visits: dict[Callable[[], Awaitable[None]], int] = {
            self._listen: 40,
            self._edit: 20,
            self._err: 12,
            self._ask_for_what_is_not_there: 6,
            self._change_mind: 8,
            self._leave_in_mid_answer: 6,
            self._leave_in_mid_request: 6,
            self._short_crowd: 3,
        }

    async def visit(self) -> None:
        """One of the things that clients do."""
        (visit,) = self._chance.choices(list(self._visits), list(self._visits.values()))
        await visit()

    # What they do

    async def _listen(self) -> None:
        """A song is continued, and that once or twice again, as far as there is time."""
        task_id = await self._post_task("/generate", self._wish())
        for _ in range(self._chance.randint(0, 2)):
            audio = await self._result(task_id) if task_id else None
            if audio is None:
                return
            body = {"task_id": task_id, "prompt_duration": str(self._chance.randint(3, 10)), "audio": audio}
            task_id = await self._post_task("/continue", body)
        if task_id and (audio := await self._result(task_id)):
            await self._crop(audio)

    async def _edit(self) -> None:
        """Clips are cropped, joined and exported."""
        clips = self._chance.choices(self._material.clips, k=self._chance.randint(2, 5))
        await self._crop(clips[0])
        await self._expect(200, "/combine-audio", {"audioClips": clips})
        await self._expect(200, "/export-to-mp3", {"audioData": clips[1]})

    async def _crop(self, audio: str) -> None:
        await self._expect(200, "/crop-audio", {"audioData": audio, "start": 0.5, "end": "1.5"})

    async def _err(self) -> None:
        """A request that no service could serve."""
        wish, clip = self._wish(), self._material.clips[0]
        mistakes: list[tuple[str, Body]] = [
            ("/generate", {}),
            ("/generate", wish | {"model": "somebody/elses"}),
            ("/generate", wish | {"url": "http://127.0.0.1:9/song.wav"}),
            ("/generate", wish | {"duration": "18-16"}),
            ("/generate", wish | {"currentTime": "soon"}),
            ("/continue", {"task_id": "0", "audio": clip}),
            ("/crop-audio", {"audioData": clip, "start": 3, "end": 2}),
            ("/crop-audio", {"audioData": "%%%", "start": 0, "end": 2}),
            ("/export-to-mp3", {"audioData": base64.b64encode(bytes(5000)).decode()}),
            ("/combine-audio", {"audioClips": []}),
        ]
        path, body = self._chance.choice(mistakes)
        await self._expect(400, path, body)
        await self._expect(404, "/tasks/" + "0" * 24)

    async def _ask_for_what_is_not_there(self) -> None:
        """The task is taken, and ends failed."""
        wish = self._wish() | {"url": self._chance.choice(self._material.no_songs)}
        if (task_id := await self._post_task("/generate", wish)) and await self._result(task_id):
            self._tally.note_wrong(f"audio was made of {wish['url']}")

    async def _change_mind(self) -> None:
        """The task is cancelled, wherever it is on its way."""
        task_id = await self._post_task("/generate", self._wish())
        if task_id is None:
            return
        await self._load.wait(self._chance.uniform(0.0, 3.0))
        with suppress(DatabaseUnavailable, UnknownTask):
            await self._load.store.cancel(task_id)

    async def _leave_in_mid_answer(self) -> None:
        """The audio's beginning is enough."""
        task_id = await self._post_task("/generate", self._wish())
        if task_id is None or await self._result(task_id) is None:
            return
        with suppress(httpx.TransportError):
            async with self._http.stream("GET", f"/fetch-result/{task_id}") as answer:
                await anext(answer.aiter_raw(1000), b"")

    async def _leave_in_mid_request(self) -> None:
        """Whoever asked is gone before the answer."""
        path, body = self._chance.choice(
            [
                ("/generate", self._wish()),
                ("/combine-audio", {"audioClips": list(self._material.clips)}),
                ("/export-to-mp3", {"audioData": self._material.clips[-1]}),
            ]
        )
        with suppress(httpx.TransportError):
            await self._http.post(path, json=body, timeout=self._chance.uniform(0.005, 0.2))

    async def _short_crowd(self) -> None:
        await self.crowd("3-4")

    async def crowd(self, length: str) -> None:
        """More come at once than the service takes; those that are refused come again when they were told to."""
        wish = self._wish() | {"duration": length, "promptLength": "2"}
        crowd = range(self._material.bound + 8)
        await asyncio.gather(*(self._post_task("/generate", wish) for _ in crowd))

    # How they do it

    def _wish(self) -> Body:
        length = self._chance.choice(_LENGTHS)
        return {
            "url": self._chance.choice(self._material.songs),
            "currentTime": self._chance.choice([0, "1.5", 4, 7.25]),
            "promptLength": str(self._chance.choice([1, 2] if length == "3-4" else [2, 3, 4])),
            "duration": length,
        }

    async def _post_task(self, path: str, body: Body) -> str | None:
        """The id of a task that was accepted; None where the load ended first, or the task to continue is forgotten."""
        key = uuid4().hex
        while self._load.is_open:
            answer = await self._send("POST", path, json=body, headers={"Idempotency-Key": key})
            match answer.status_code if answer is not None else 0:
                case 200:
                    assert answer is not None
                    task_id: str = answer.json()["task_id"]
                    self._ledger.accept(key, task_id)
                    return task_id
                case 429:
                    assert answer is not None
                    pause_s = float(answer.headers.get("retry-after") or self._misses_header(path))
                case 404 if path == "/continue":
                    return None
                case status if status in _UNAVAILABLE or not status:
                    pause_s = 1.0
                case status:
                    self._tally.note_wrong(f"{path} answered {status}")
                    return None
            await self._load.wait(pause_s)
        return None

    def _misses_header(self, path: str) -> float:
        self._tally.note_wrong(f"{path} answered 429 without Retry-After")
        return 1.0

    async def _result(self, task_id: str) -> str | None:
        """A task's audio in base64, polled for as the old clients do; None where it has none."""
        since_s = monotonic()
        while monotonic() - since_s < _RESULT_TIMEOUT_S:
            await asyncio.sleep(self._chance.uniform(0.2, 0.6))
            await self._send("GET", f"/progress/{task_id}")
            answer = await self._send("GET", f"/fetch-result/{task_id}")
            if answer is None or answer.status_code in _UNAVAILABLE:
                continue
            outcome = answer.json()
            if outcome.get("status") == "completed":
                self._tally.latencies_s.append(monotonic() - since_s)
                return self._checked(outcome["audio"], task_id)
            if outcome.get("status") != "pending":  # failed, or ended so long ago that it is forgotten
                return None
        return None

    def _checked(self, audio: str, task_id: str) -> str:
        if base64.b64decode(audio[:8])[:4] != b"RIFF":
            self._tally.note_wrong(f"the audio of {task_id} is none")
        return audio

    async def _expect(self, status: int, path: str, body: Body | None = None) -> None:
        """Asks once; any answer but `status`, or a service that is away, is wrong."""
        answer = await self._send("GET" if body is None else "POST", path, json=body)
        if answer is not None and answer.status_code not in _UNAVAILABLE | {status}:
            self._tally.note_wrong(f"{path} answered {answer.status_code}, not {status}: {answer.text[:200]}")

    async def _send(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """One answer; None where there was none."""
        route, calm = "/".join(path.split("/")[:2]), self._load.calm
        try:
            answer = await self._http.request(method, path, **more)
        except httpx.TransportError as error:
            self._tally.answers[route, 0] += 1
            if calm and self._load.calm:
                self._tally.note_wrong(f"{route} was not answered: {error!r}")
            return None
        status = answer.status_code
        self._tally.answers[route, status] += 1
        is_bug = status == 500 and '"internal"' in answer.text  # our own word for what nobody foresaw
        if is_bug or (status >= 500 and calm and self._load.calm):
            self._tally.note_wrong(f"{route} answered {status}: {answer.text[:200]}")
        return answer
