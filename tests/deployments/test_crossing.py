"""What crosses processes: samples as read-only shared memory, and nothing of torch."""

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from ray import serve

from deployments import cropper, musicgen
from deployments.handles import Handle, parcel, stream
from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from gary.config import EngineConfig, Limits, ModelSpec
from gary.engine.request import AudioStretch, CodePrompt, GenerationEvent, GenerationRequest, ModelCard
from tests.running import Running, replica_pids


class LookingEngine:
    """An engine that looks at the prompt instead of continuing it; its answer is what it saw, as samples."""

    sample_rate_hz = 32_000
    channels = 1
    card = ModelCard("", "", "", "fp32", "cpu", sample_rate_hz=32_000, channels=1, frame_samples=640)

    async def generate(
        self, request: GenerationRequest, prompt: Clip | CodePrompt | None
    ) -> AsyncGenerator[GenerationEvent, None]:
        assert isinstance(prompt, Clip)
        base: object = prompt.samples
        while isinstance(base, np.ndarray):
            base = base.base
        address = prompt.samples.__array_interface__["data"][0]
        seen = [prompt.samples.flags.writeable, prompt.samples.flags.owndata, base is not None, in_plasma(address)]
        yield AudioStretch(0, Clip(np.array([seen], np.float32), self.sample_rate_hz))

    @property
    def held_bytes(self) -> int:
        return 0

    def abort(self, request_id: str) -> bool:
        return False

    def check_health(self) -> None:
        pass

    def close(self) -> None:
        pass


def in_plasma(address: int) -> bool:
    """Whether an address of this process lies in Ray's shared object store."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= address < high:
            return "plasma" in name or "/dev/shm" in name
    return False


class Chain:
    """Passes what the cropper made on to MusicGen, as the conductor does."""

    def __init__(self, cropper: Handle, musicgen: Handle) -> None:
        self._cropper = cropper
        self._musicgen = musicgen

    async def run(self, wav: bytes) -> list[float]:
        clip = await parcel(self._cropper.decode.remote(wav), "the cropper")
        request = GenerationRequest(id="look", duration_s=1.0, seed=0)
        events = self._musicgen.options(stream=True).generate.remote("looking", request, clip)
        return [float(value) async for event in stream(events, "MusicGen") for value in event.clip.samples[0]]


@pytest.fixture
def chain(ray_running: None) -> Iterator[Handle]:
    model = ModelSpec(name="looking", checkpoint="looking", size="tiny")
    looking = musicgen.deployment.bind((model,), EngineConfig(), start=lambda checkpoint, config: LookingEngine())
    chained = serve.deployment(ray_actor_options={"num_cpus": 0})(Chain)
    app = chained.bind(cropper.deployment.bind(Limits()), looking)
    yield serve.run(app, name="crossing", route_prefix=None)
    serve.delete("crossing")


async def test_the_prompt_reaches_musicgen_as_shared_memory(chain: Handle) -> None:
    """Read-only, owned by nobody in that process, and mapped from the object store: no copy was made on the way."""
    wav = encode_wav(Clip(np.full((2, 48_000 * 20), 0.25, np.float32), 48_000))
    writeable, owndata, has_base, plasma = await chain.run.remote(wav)
    assert (writeable, owndata, has_base, plasma) == (0.0, 0.0, 1.0, 1.0)


def test_nothing_of_torch_is_ever_pickled(service: Running) -> None:
    """After a task has gone all the way, no process that MusicGen talks to has torch in it: to unpickle anything of
    torch's, it would have had to import it."""
    url = service.media.put("/torch.wav", encode_wav(Clip(np.zeros((1, 32_000 * 10), np.float32), 32_000)))
    with httpx.Client(base_url=service.base_url, timeout=60) as http:
        task_id = http.post("/generate", json={"url": url}).json()["task_id"]
        while (task := http.get(f"/tasks/{task_id}").json())["status"] == "pending":
            assert http.get("/health").status_code == 200
        assert task["status"] == "completed", task.get("error")

    def holds_torch(pid: int) -> bool:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()

    assert all(holds_torch(pid) for pid in replica_pids("MusicGen-tiny")), "the check can see torch"
    for deployment in ("Ingress", "Conductor", "Fetcher", "Cropper", "Database"):
        pids = replica_pids(deployment)
        assert pids
        assert not any(holds_torch(pid) for pid in pids), deployment
