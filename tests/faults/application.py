"""The service of `deployments.app`, its parts fitted with doors: the same code, with places to wait and to fail at.

Only what a test cannot reach from outside is fitted. The conductors speak to the database over the suite's wire; a
cropper waits at the door `encoding`; MusicGen waits at `generating`, and its device runs out of memory once for each
time that `out-of-memory` is shut.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import yaml
from pydantic import BaseModel, ConfigDict
from ray.serve import Application

from deployments import app, conductor, cropper, database, fetcher, ingress, musicgen
from gary.audio.clip import Clip
from gary.config import AppArgs, EngineConfig, ModelSpec, TracingConfig
from gary.engine.request import CodePrompt, Engine, GenerationEvent, GenerationRequest, ModelCard
from tests.faults.doors import Doors

WIRE = "GARY_FAULTS_WIRE"  # the database's URI, as the conductors know it
ROOT = Path(__file__).parents[2]
DOORS = "GARY_FAULTS_DOORS"  # a directory


class HouseSpec(BaseModel):
    """What a house is built by.

    Attributes:
        port: of HTTP.
        temp_dir: of Ray.
        nodes: of Ray's cluster; with more than one, all but the database and the ingress are on the others.
        gpu_nodes: of that cluster besides, shaped and used as production's files say.
        autoscaling: of MusicGen-tiny.
        dashboard_port: with one, the service is deployed by `serve deploy`, which speaks to the dashboard.
        small_disk: a directory that is given a disk of its own, of `small_disk_bytes`.
    """

    model_config = ConfigDict(extra="forbid")

    args: AppArgs
    port: int
    temp_dir: Path
    nodes: int = 1
    gpu_nodes: int = 0
    autoscaling: dict[str, Any] | None = None
    replicas: dict[str, int] = {}
    dashboard_port: int | None = None
    small_disk: Path | None = None
    small_disk_bytes: int = 0


def fitted(spec: HouseSpec) -> Application:
    """The application of a house."""
    away = {"resources": {"work": 0.001}} if spec.nodes > 1 else {}

    def options(name: str, **more: Any) -> dict[str, Any]:
        if spec.gpu_nodes:
            return {"num_replicas": spec.replicas.get(name, 1), "ray_actor_options": _as_in_production(name)}
        placed = {} if name in ("Database", "Ingress") else away
        count = spec.replicas.get(name, 1)
        return {
            "num_replicas": count,
            "ray_actor_options": {"num_cpus": 0, **placed},
            **more,
        }

    scaled = {"num_replicas": None, "autoscaling_config": spec.autoscaling} if spec.autoscaling else {}

    parts = app.Parts(
        database=database.deployment.options(ray_actor_options={"num_cpus": 0, **_head(spec)}),
        fetcher=fetcher.deployment.options(**options("Fetcher")),
        cropper=cropper.deployment.options(DooredCropper, **options("Cropper")),
        musicgen=musicgen.deployment.options(DooredMusicGen, **options("MusicGen-tiny") | scaled),
        conductor=conductor.deployment.options(WiredConductor, **options("Conductor")),
        ingress=ingress.deployment.options(**options("Ingress", ray_actor_options={"num_cpus": 0, **_head(spec)})),
    )
    return app.assemble(spec.args, parts)


def _head(spec: HouseSpec) -> dict[str, Any]:
    return {"resources": {"head": 0.001}} if spec.nodes > 1 or spec.gpu_nodes else {}


def _as_in_production(name: str) -> dict[str, Any]:
    """What a deployment asks for; every size of MusicGen the same."""
    deployments = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"][0]["deployments"]
    wanted = "MusicGen-small" if name.startswith("MusicGen") else name
    (options,) = [each["ray_actor_options"] for each in deployments if each["name"] == wanted]
    return dict(options)


class WiredConductor(conductor.Conductor):
    async def __init__(self, args: AppArgs, uri: str, *others: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        await super().__init__(args, os.environ[WIRE], *others)


class DooredCropper(cropper.Cropper):
    async def encode_generated(self, stretches: Sequence[Clip], trace: str | None = None) -> tuple[bytes, float]:
        await Doors(Path(os.environ[DOORS])).go_through("encoding", uuid4().hex)
        return await super().encode_generated(stretches, trace=trace)


class DooredMusicGen(musicgen.MusicGen):
    async def __init__(  # type: ignore[misc]
        self, models: tuple[ModelSpec, ...], config: EngineConfig, tracing_config: TracingConfig
    ) -> None:
        await super().__init__(models, config, start=_start, tracing_config=tracing_config)


def _start(checkpoint: str, config: EngineConfig) -> Engine:
    """The product's engine, on a core that can run out of memory, behind a door."""
    from gary.engine.batching import BatchingEngine
    from gary.engine.checkpoint import load
    from gary.engine.device import pick_device
    from gary.engine.hub import use_hub
    from gary.engine.parts import make_parts

    doors = Doors(Path(os.environ[DOORS]))
    use_hub(config.hub_cache_dir, config.hub_offline)
    device = pick_device(config)
    parts = make_parts(load(checkpoint, device), device, config)
    engine = BatchingEngine(replace(parts, core=cast("Any", _FragileCore(parts.core, doors))), config.threads)
    asyncio.run(engine.warm_up())
    return _DooredEngine(engine, doors)


class _FragileCore:
    """An engine's core whose next step fails as torch's do, once for each shutting of the door."""

    def __init__(self, core: Any, doors: Doors) -> None:
        self._core = core
        self._doors = doors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def step(self) -> Any:
        import torch

        if self._doors.is_shut("out-of-memory"):
            self._doors.open("out-of-memory")
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (injected)")
        return self._core.step()


class _DooredEngine:
    """Waits at the door once the engine has begun: the request is in its slot, among its neighbours."""

    def __init__(self, engine: Engine, doors: Doors) -> None:
        self._engine = engine
        self._doors = doors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def sample_rate_hz(self) -> int:
        return self._engine.sample_rate_hz

    @property
    def channels(self) -> int:
        return self._engine.channels

    @property
    def card(self) -> ModelCard:
        return self._engine.card

    async def generate(
        self, request: GenerationRequest, prompt: Clip | CodePrompt | None
    ) -> AsyncGenerator[GenerationEvent, None]:
        async with aclosing(self._engine.generate(request, prompt)) as events:
            async for event in events:
                yield event
                await self._doors.go_through("generating", request.id)

    @property
    def held_bytes(self) -> int:
        return self._engine.held_bytes

    def abort(self, request_id: str) -> bool:
        return self._engine.abort(request_id)

    def check_health(self) -> None:
        self._engine.check_health()

    def close(self) -> None:
        self._engine.close()
