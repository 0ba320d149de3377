"""Who stops listening to MusicGen frees it: closing the stream in one process ends the request in the other."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from time import monotonic

import pytest
from ray import serve

from deployments import musicgen
from deployments.handles import Handle, stream
from gary.audio.clip import Clip
from gary.config import EngineConfig, ModelSpec
from gary.engine.request import CodePrompt, GenerationEvent, GenerationRequest, ModelCard, Progress


class EndlessEngine:
    """Never done; leaves a file, named by the request's description, when it is told to stop."""

    sample_rate_hz = 32_000
    channels = 1
    card = ModelCard("", "", "", "fp32", "cpu", sample_rate_hz=32_000, channels=1, frame_samples=640)

    async def generate(
        self, request: GenerationRequest, prompt: Clip | CodePrompt | None
    ) -> AsyncGenerator[GenerationEvent, None]:
        assert request.description is not None
        frames = 0
        try:
            while True:
                yield Progress(frames, 10**9)
                frames += 1
                await asyncio.sleep(0.01)
        finally:
            Path(request.description).touch()  # noqa: ASYNC240  nothing may be awaited when it is closed

    @property
    def held_bytes(self) -> int:
        return 0

    def abort(self, request_id: str) -> bool:
        return False

    def check_health(self) -> None:
        pass

    def close(self) -> None:
        pass


class Listener:
    """Listens to three events, as a conductor that loses its lease would."""

    def __init__(self, model: Handle) -> None:
        self._model = model

    async def run(self, marker: str) -> int:
        request = GenerationRequest(id="endless", duration_s=1.0, seed=0, description=marker)
        events = self._model.options(stream=True).generate.remote("endless", request, None)
        heard = 0
        async with aclosing(stream(events, "MusicGen")) as progress:
            async for _ in progress:
                heard += 1
                if heard == 3:
                    break
        return heard


@pytest.fixture
def listener(ray_running: None) -> Iterator[Handle]:
    model = ModelSpec(name="endless", checkpoint="endless", size="tiny")
    endless = musicgen.deployment.bind((model,), EngineConfig(), start=lambda checkpoint, config: EndlessEngine())
    yield serve.run(serve.deployment()(Listener).bind(endless), name="cancel", route_prefix=None)
    serve.delete("cancel")


async def test_closing_the_stream_stops_the_engine(listener: Handle, tmp_path: Path) -> None:
    marker = tmp_path / "stopped"
    assert await listener.run.remote(str(marker)) == 3
    deadline_s = monotonic() + 20
    while not marker.exists():
        assert monotonic() < deadline_s, "the engine goes on for nobody"
        await asyncio.sleep(0.05)
