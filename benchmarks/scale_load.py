"""An open loop of tasks: they arrive when their time has come, whatever became of those before them.

A task's time is counted from its scheduled arrival, so that neither a slow server nor a late client spares it, to the
moment that the service itself recorded as its end; database, service and clients share one machine and its clock.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC
from http import HTTPStatus
from time import time
from typing import Any

import aiohttp
import numpy as np
from bson import ObjectId
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection

from benchmarks.scale_figures import Stages
from benchmarks.scale_service import DATABASE, MODEL, Service
from gary.tasks.task import UNFINISHED

Document = dict[str, Any]
Tasks = AsyncCollection[Document]
_LOOK_S = 0.1
TEMPO_BPM = 240.0  # a bar is a second
_PATIENCE_S = 120.0  # for a queue to empty


@dataclass(frozen=True)
class Job:
    """What every task of a load asks for: so much new music after the end of an upload, or of an earlier task.

    Attributes:
        source: a WAV file's bytes, or the id of a task that is completed.
    """

    source: bytes | str
    prompt_s: float
    new_s: float

    def body(self, seed: int) -> dict[str, Any]:
        """As aiohttp takes it; of an upload one that can be sent once."""
        asked = {
            "model": MODEL,
            "source": {"task": self.source} if isinstance(self.source, str) else {"upload": True},
            "prompt": {"length_s": self.prompt_s},
            # At a tempo that is told: else that of an earlier task's noise would be looked for each time.
            "length": {"bars": round(self.new_s * TEMPO_BPM / 240), "tempo_bpm": TEMPO_BPM},
            "seed": seed,
        }
        if isinstance(self.source, str):
            return {"json": asked}
        form = aiohttp.FormData()
        form.add_field("task", json.dumps(asked), content_type="application/json")
        form.add_field("file", self.source, filename="loop.wav", content_type="audio/wav")
        return {"data": form}


@dataclass(frozen=True)
class Asked:
    """A task that was offered.

    Attributes:
        at_s: its scheduled arrival, since the load began.
        task_id, stages: None where it was refused.
    """

    at_s: float
    task_id: str | None
    stages: Stages | None


def arrivals_s(rate_per_s: float, window_s: float, seed: int) -> list[float]:
    """Times of a Poisson process within a window, given its number: `rate_per_s * window_s`, rounded.

    The number is fixed so that the load offered is the load named; given their number, a Poisson process's arrivals
    are so many uniform draws, sorted.
    """
    count = round(rate_per_s * window_s)
    return sorted(np.random.default_rng(seed).uniform(0.0, window_s, count).tolist())


async def offer(service: Service, job: Job, at_s: Sequence[float]) -> list[Asked]:
    """Offers a task at each of these times and waits until all that were taken are over.

    Raises:
        ExceptionGroup: of RuntimeError: an answer was neither 202 nor 429.
        RuntimeError: a task failed, or was not over in time.
    """
    async with _clients(service) as (http, tasks):
        loop = asyncio.get_running_loop()
        since_s, began_s = loop.time(), time()
        posts = []
        async with asyncio.TaskGroup() as group:
            for number, arrival_s in enumerate(at_s):
                await asyncio.sleep(since_s + arrival_s - loop.time())
                posts.append(group.create_task(_post(http, job.body(seed=number))))
        await _all_over(tasks)
        ids = [post.result() for post in posts]
        ended = await _ended(tasks, ids)
    return [
        Asked(arrival_s, task_id, None if task_id is None else _stages(ended[task_id], began_s + arrival_s))
        for arrival_s, task_id in zip(at_s, ids, strict=True)
    ]


async def one_by_one(service: Service, job: Job, count: int) -> list[Asked]:
    """So many tasks, each offered when the one before it is over: what a task takes that has the house to itself.

    Errors as of `offer`.
    """
    return [task for _ in range(count) for task in await offer(service, job, [0.0])]


@asynccontextmanager
async def _clients(service: Service) -> AsyncIterator[tuple[aiohttp.ClientSession, Tasks]]:
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
    connector = aiohttp.TCPConnector(limit=0)  # no task waits for another's connection
    async with (
        aiohttp.ClientSession(service.base_url, connector=connector, timeout=timeout) as http,
        AsyncMongoClient[Document](service.uri, tz_aware=True, tzinfo=UTC) as mongo,
    ):
        yield http, mongo[DATABASE]["tasks"]


async def _post(http: aiohttp.ClientSession, body: Document) -> str | None:
    """The task's id; None where the house is full."""
    async with http.post("/v1/tasks", **body) as answer:
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            return None
        if answer.status != HTTPStatus.ACCEPTED:
            raise RuntimeError(f"a task was answered {answer.status}: {await answer.text()}")
        return str((await answer.json())["id"])


async def _all_over(tasks: Tasks) -> None:
    unfinished = {"status": {"$in": [status.value for status in UNFINISHED]}}
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while await tasks.find_one(unfinished, {"_id": 1}) is not None:  # noqa: ASYNC110  the database tells nobody
                await asyncio.sleep(_LOOK_S)
    except TimeoutError as error:
        raise RuntimeError(f"the queue was not empty after {_PATIENCE_S:g} s") from error


async def _ended(tasks: Tasks, ids: Sequence[str | None]) -> dict[str, Document]:
    """Each task that was taken, by id. Raises RuntimeError: one was not completed."""
    wanted = {"_id": {"$in": [ObjectId(task_id) for task_id in ids if task_id is not None]}}
    found = [task async for task in tasks.find(wanted, {"steps": 1, "status": 1, "facts": 1, "error": 1})]
    if failed := [task for task in found if task["status"] != "completed"]:
        raise RuntimeError(f"{len(failed)} tasks of {len(found)} are not completed; one: {failed[0]}")
    return {str(task["_id"]): task for task in found}


def _stages(task: Document, arrived_s: float) -> Stages:
    """The conductor's own clock between its claim and the last sample, the database's around them."""
    at_s = {step["status"]: step["at"].timestamp() for step in task["steps"]}
    open_s, generate_s = task["facts"]["fetching_s"], task["facts"]["generating_s"]
    return Stages(
        accept_s=at_s["fetching"] - arrived_s,
        open_s=open_s,
        generate_s=generate_s,
        store_s=at_s["completed"] - at_s["fetching"] - open_s - generate_s,
    )
