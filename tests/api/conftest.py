"""The API without Ray: the real store on a real server, real ffmpeg, and nobody who works on tasks."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from examples.local import laptop_config
from gary.api.app import create_api
from gary.api.services import Health, Services
from gary.audio import crop
from gary.audio.clip import Clip
from gary.audio.files import decode, encode, encode_mp3, encode_wav
from gary.config import AccessConfig, ApiKey, AppArgs, DatabaseConfig, Limits, TasksConfig
from gary.tasks.embedded import EmbeddedDatabase
from gary.tasks.music import Format
from gary.tasks.store import TaskStore

KEY = "gk-3f9c41d7aa12"
OTHER_KEY = "gk-70b1e2c9d4f5"


def api_key(name: str, key: str) -> ApiKey:
    """A key as the config lists it."""
    return ApiKey(name=name, sha256=hashlib.sha256(key.encode()).hexdigest())


class LocalDesk:
    """gary.api's AudioDesk in this process."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.conversions = 0

    async def probe(self, data: bytes) -> float:
        return (await decode(data, self._limits)).duration_s

    async def crop(self, data: bytes, start_s: float, end_s: float) -> bytes:
        return await encode_mp3(crop.crop(await decode(data, self._limits), start_s, end_s))

    async def join(self, clips: Sequence[bytes]) -> bytes:
        return await encode_mp3(crop.join([await decode(data, self._limits) for data in clips]))

    async def to_mp3(self, data: bytes) -> bytes:
        return await encode_mp3(await decode(data, self._limits))

    async def convert(self, wav: bytes, form: Format) -> bytes:
        self.conversions += 1
        return await encode(await decode(wav, self._limits), form, self._limits)

    async def crop_to(self, data: bytes, start_s: float, end_s: float | None, form: Format) -> bytes:
        clip = await decode(data, self._limits)
        end_s = math.inf if end_s is None else end_s
        return await encode(crop.crop(clip, start_s, end_s), form, self._limits)

    async def join_to(self, clips: Sequence[bytes], form: Format) -> bytes:
        return await encode(crop.join([await decode(data, self._limits) for data in clips]), form, self._limits)


@dataclass
class Api:
    """An API under test, and what was asked of the rest of the house."""

    store: TaskStore
    desk: LocalDesk
    app: FastAPI = field(init=False)
    http: httpx.AsyncClient = field(init=False)
    begun: list[str] = field(default_factory=list)
    down: set[str] = field(default_factory=set)

    async def generate(self, headers: dict[str, str] | None = None, **changes: object) -> httpx.Response:
        body = {"url": "https://www.youtube.com/watch?v=dQw4w9WgXcQ", "currentTime": 12}
        return await self.http.post("/generate", json=body | changes, headers=headers)

    async def health(self) -> Health:
        parts = {part: part not in self.down for part in ("mongodb", "pytorch", "ray")}
        return Health(**parts, queue=await self.store.queue() if parts["mongodb"] else None, ready={"tiny": 1})

    def asking_from(self, host: str, port: int = 50_000) -> httpx.AsyncClient:
        """A client at that end of the connection."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(host, port))
        return httpx.AsyncClient(transport=transport, base_url="http://gary.test", timeout=60)


OpenApi = Callable[..., AbstractAsyncContextManager[Api]]


@pytest.fixture(scope="session")
def database_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedDatabase(tmp_path_factory.mktemp("api-database"))
    yield server.start()
    server.stop()


@asynccontextmanager
async def opened_api(
    database_uri: str, limits: Limits | None = None, access: AccessConfig | None = None, uri: str | None = None
) -> AsyncIterator[Api]:
    """An API on a database of its own; with `uri` on that server, and nothing is expected of it."""
    args = AppArgs.model_validate(laptop_config("tiny")["applications"][0]["args"])
    limits = limits or Limits(body_bytes=2_000_000, clips=3)
    database = DatabaseConfig(name=f"api-{uuid4().hex[:12]}", timeout_s=0.3 if uri else 10.0)
    store = TaskStore(uri or database_uri, database, TasksConfig(), limits.unfinished_tasks)
    if uri is None:
        await store.open()
    under_test = Api(store, LocalDesk(limits))
    services = Services(
        store=store,
        audio=under_test.desk,
        begin=under_test.begun.append,
        health=under_test.health,
        new_seed=lambda: 7,
        models=args.models,
        default_model=args.default_model,
        limits=limits,
        access=access or AccessConfig(),
        sources=args.sources,
    )
    under_test.app = create_api(services)
    async with under_test.asking_from("127.0.0.1") as under_test.http:
        yield under_test
    await store.close()


@pytest.fixture
def open_api(database_uri: str) -> OpenApi:
    """`opened_api` on the session's database server."""
    return partial(opened_api, database_uri)


@pytest.fixture
async def api(open_api: OpenApi) -> AsyncIterator[Api]:
    async with open_api() as under_test:
        yield under_test


def tone(duration_s: float, rate_hz: int = 32_000, channels: int = 1) -> Clip:
    """A quiet tone, [C, N]."""
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    samples = 0.1 * np.sin(2 * np.pi * 220 * t)
    return Clip(np.repeat(samples[None].astype(np.float32), channels, axis=0), rate_hz)


def wav64(duration_s: float, rate_hz: int = 32_000, channels: int = 1) -> str:
    """The same as the base64 of a WAV file."""
    return base64.b64encode(encode_wav(tone(duration_s, rate_hz, channels))).decode()
