"""What the tests of /v1 share: bodies, a worker's steps, the files that it makes, and the API over real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import uvicorn

from gary.api.v1.live import wav_header
from gary.tasks.music import Receipt, Sampling, Sheet
from gary.tasks.store import TaskStore
from gary.tasks.task import Claim, Status
from gary.tasks.workers import MadeTake
from tests.api.conftest import Api

VIDEO = "https://www.youtube.com/watch?v=dQw4w9WgXcQ"
SHEET = Sheet(
    sample_rate_hz=8_000,
    channels=2,
    source_samples=4_000,
    length_samples=16_000,
    prompt_s=0.5,
    tempo_bpm=120.0,
    tempo_confidence=0.9,
    bars=1,
)
FRAME_BYTES = 4
UNKNOWN_ID = "0" * 24


async def create(api: Api, **changes: Any) -> httpx.Response:
    return await api.http.post("/v1/tasks", json={"source": {"url": VIDEO, "start_s": 30.0}} | changes)


async def created(api: Api, **changes: Any) -> str:
    answer = await create(api, **changes)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def pcm(seed: int, sheet: Sheet = SHEET) -> bytes:
    """A take's samples: 16-bit, interleaved."""
    size = sheet.length_samples * sheet.channels
    return np.random.default_rng(seed).integers(-3000, 3000, size, np.int16).tobytes()


def wav(seed: int, sheet: Sheet = SHEET) -> bytes:
    return wav_header(sheet) + pcm(seed, sheet)


async def begun(store: TaskStore, task_id: str, sheet: Sheet = SHEET) -> Claim:
    """A worker has the task and is generating."""
    claim = await store.claim(task_id, "worker")
    assert claim is not None
    await store.begin_music(claim, sheet)
    return claim


async def add(store: TaskStore, claim: Claim, seed: int, start_sample: int, end_sample: int, take: int = 0) -> None:
    """A live chunk of what `pcm(seed)` is."""
    part = pcm(seed)[start_sample * FRAME_BYTES : end_sample * FRAME_BYTES]
    await store.add_live(claim, take, start_sample, part)


async def finish(store: TaskStore, claim: Claim, *seeds: int) -> None:
    """The worker hands in `wav(seed)` for each take."""
    await store.advance(claim, Status.ENCODING)
    takes = [MadeTake(seed, wav(seed), b"codes", SHEET.length_samples / SHEET.sample_rate_hz) for seed in seeds]
    await store.finish_music(claim, takes, receipt_of(seeds))


def receipt_of(seeds: tuple[int, ...]) -> Receipt:
    return Receipt(
        model="gary-tiny",
        checkpoint_sha256="c" * 64,
        codec_sha256="d" * 64,
        engine_version="1",
        precision="fp32",
        device="cpu",
        input_sha256=hashlib.sha256(b"prompt").hexdigest(),
        length_samples=SHEET.length_samples,
        description=None,
        seed=seeds[0],
        takes=len(seeds),
        sampling=Sampling(),
    )


async def completed(api: Api, *seeds: int, **changes: Any) -> str:
    """The id of a task whose takes are `wav(seed)`."""
    task_id = await created(api, takes=len(seeds), seed=seeds[0], **changes)
    await finish(api.store, await begun(api.store, task_id), *seeds)
    return task_id


@asynccontextmanager
async def over_http(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    """The API on a port of loopback: unlike the transport of the other tests, it streams."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(api.app, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=base_url, timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            await serving


def is_polling() -> bool:
    """Whether an application in this process looks at the store for somebody who listens."""
    return "Watch._poll" in {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}
