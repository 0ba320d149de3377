"""Which replica a call of MusicGen is sent to: one that has its model, while one has room."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from ray import serve
from ray.serve._private.common import (  # what Serve makes a router with; its public face begins after that
    DeploymentHandleSource,
    DeploymentID,
    RequestMetadata,
)
from ray.serve.request_router import PendingRequest, ReplicaID, RunningReplica

from deployments import musicgen
from deployments.handles import stream
from deployments.routing import MODELS, PreferLoaded
from gary.config import EngineConfig, ModelSpec
from gary.engine.request import GenerationRequest
from tests.deployments.playing import PlayingEngine

MUSICGEN = DeploymentID("MusicGen-tiny", "gary")


@dataclass
class Replica:
    """What the router sees of one."""

    replica_id: ReplicaID
    routing_stats: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def now_s() -> list[float]:
    return [0.0]


@pytest.fixture
def router(now_s: list[float]) -> PreferLoaded:
    return PreferLoaded(MUSICGEN, DeploymentHandleSource.REPLICA, clock_s=lambda: now_s[0])


def replica(name: str, *models: str) -> Replica:
    return Replica(ReplicaID(name, MUSICGEN), {MODELS: list(models)})


async def ranks(router: PreferLoaded, model: str, *replicas: Replica) -> list[list[str]]:
    chosen = await router.choose_replicas(cast("list[RunningReplica]", list(replicas)), call(model))
    return [[each.replica_id.unique_id for each in rank] for rank in chosen]


def call(model: str) -> PendingRequest:
    future = asyncio.get_running_loop().create_future()
    return PendingRequest([model, "request", None], {}, RequestMetadata("id", "internal"), future=future)


async def test_who_has_the_model_comes_first(router: PreferLoaded) -> None:
    """Then those that hold fewest, for there is room or will be; all are asked before a call waits."""
    three = replica("three", "base", "x", "y"), replica("tuned", "base", "tune"), replica("plain", "base")
    assert await ranks(router, "tune", *three) == [["tuned"], ["plain"], ["three"]]
    assert await ranks(router, "base", *three) == [["three", "tuned", "plain"], [], []]


async def test_a_replica_that_says_nothing_yet_is_as_good_as_empty(router: PreferLoaded) -> None:
    """One that has just started was not asked."""
    silent = Replica(ReplicaID("silent", MUSICGEN))
    assert await ranks(router, "tune", replica("plain", "base"), silent) == [[], ["silent"], ["plain"]]


async def test_a_choice_is_known_at_once(router: PreferLoaded, now_s: list[float]) -> None:
    """The next call for a model goes where the one before went, though that replica has not said that it loads it."""
    left, right = replica("left", "base"), replica("right", "base")
    router.on_request_routed(call("tune"), right.replica_id, None)
    assert await ranks(router, "tune", left, right) == [["right"], ["left"], []]
    now_s[0] = 11.0
    assert await ranks(router, "tune", left, right) == [[], ["left", "right"], []]


async def test_a_call_that_finds_no_room_pauses(router: PreferLoaded) -> None:
    """Serve asks a router that does not want a pause again at once, for ever."""
    pending = call("tune")
    await router.choose_replicas([], pending)
    assert pending.routing_context.should_backoff


async def test_a_fine_tune_is_loaded_by_one_replica(ray_running: None, tmp_path: Path) -> None:
    """Of two replicas that hold the base, whichever gets the first call for a fine-tune gets the others, too."""
    checkpoints = {"base": "playing", "tune": "other"}
    models = tuple(ModelSpec(name=name, checkpoint=each, size="tiny") for name, each in checkpoints.items())
    loads = tmp_path / "loads"

    def start(checkpoint: str, config: EngineConfig) -> PlayingEngine:
        with loads.open("a") as noted:
            noted.write(f"{checkpoint}\n")
        return PlayingEngine(checkpoint)

    config = EngineConfig(resident_bytes=1)
    app = musicgen.deployment.options(num_replicas=2).bind(models, config, start=start)
    handle = serve.run(app, name="routed", route_prefix=None).options(stream=True)
    try:
        for number in range(8):
            request = GenerationRequest(id=f"routed-{number}", duration_s=1.0, seed=number)
            calling = handle.generate.remote("tune", request, None)
            assert [event async for event in stream(calling, "MusicGen")]
        assert sorted(loads.read_text().split()) == ["other", "playing", "playing"]
    finally:
        serve.delete("routed")
