"""The API without Ray: the real store on a real server, real ffmpeg, and nobody who works on tasks."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import httpx
import numpy as np
import pytest
import yaml

from gary.api.app import create_api
from gary.api.services import Health, Services
from gary.audio import crop
from gary.audio.clip import Clip
from gary.audio.files import decode, encode_mp3, encode_wav
from gary.config import AppArgs, DatabaseConfig, Limits, TasksConfig
from gary.tasks.embedded import EmbeddedDatabase
from gary.tasks.store import TaskStore
from tests.running import ROOT


class LocalDesk:
    """gary.api's AudioDesk in this process."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def probe(self, data: bytes) -> float:
        return (await decode(data, self._limits)).duration_s

    async def crop(self, data: bytes, start_s: float, end_s: float) -> bytes:
        return await encode_mp3(crop.crop(await decode(data, self._limits), start_s, end_s))

    async def join(self, clips: Sequence[bytes]) -> bytes:
        return await encode_mp3(crop.join([await decode(data, self._limits) for data in clips]))

    async def to_mp3(self, data: bytes) -> bytes:
        return await encode_mp3(await decode(data, self._limits))


@dataclass
class Api:
    """An API under test, and what was asked of the rest of the house."""

    store: TaskStore
    http: httpx.AsyncClient = field(init=False)
    begun: list[str] = field(default_factory=list)
    health: Health = field(default_factory=lambda: Health(mongodb=True, pytorch=True, ray=True))

    async def generate(self, **changes: object) -> httpx.Response:
        body = {"url": "https://www.youtube.com/watch?v=dQw4w9WgXcQ", "currentTime": 12}
        return await self.http.post("/generate", json=body | changes)


@pytest.fixture(scope="session")
def database_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedDatabase(tmp_path_factory.mktemp("api-database"))
    yield server.start()
    server.stop()


@pytest.fixture
async def api(database_uri: str) -> AsyncIterator[Api]:
    args = AppArgs.model_validate(
        yaml.safe_load((ROOT / "serve_config.dev.yaml").read_text())["applications"][0]["args"]
    )
    limits = Limits(body_bytes=2_000_000, clips=3)
    store = TaskStore(database_uri, DatabaseConfig(name=f"api-{uuid4().hex[:12]}"), TasksConfig())
    await store.open()

    under_test = Api(store)

    async def health() -> Health:
        return under_test.health

    services = Services(
        store=store,
        audio=LocalDesk(limits),
        begin=under_test.begun.append,
        health=health,
        new_seed=lambda: 7,
        models=args.models,
        default_model=args.default_model,
        limits=limits,
        sources=args.sources,
    )
    transport = httpx.ASGITransport(create_api(services), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gary.test", timeout=60) as under_test.http:
        yield under_test
    await store.close()


def tone(duration_s: float, rate_hz: int = 32_000, channels: int = 1) -> Clip:
    """A quiet tone, [C, N]."""
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    samples = 0.1 * np.sin(2 * np.pi * 220 * t)
    return Clip(np.repeat(samples[None].astype(np.float32), channels, axis=0), rate_hz)


def wav64(duration_s: float, rate_hz: int = 32_000, channels: int = 1) -> str:
    """The same as the base64 of a WAV file."""
    return base64.b64encode(encode_wav(tone(duration_s, rate_hz, channels))).decode()
