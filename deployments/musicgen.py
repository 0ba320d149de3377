"""One size of MusicGen on one device: a replica holds an engine and streams what it makes.

Nothing of torch crosses a process: requests, progress and samples are plain values.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from ray import serve
from ray.serve import Deployment
from ray.serve.config import RequestRouterConfig

from deployments import logs, tracing
from deployments.engine_meter import EngineMeter, RequestPace
from deployments.handles import Parcel
from deployments.hearing import Hearing
from deployments.metrics import Meter
from deployments.routing import MODELS, PreferLoaded
from gary.audio.clip import Clip
from gary.config import EngineConfig, ModelSpec, TracingConfig
from gary.engine.probe import Probe
from gary.engine.request import CodePrompt, Engine, GenerationEvent, GenerationRequest
from gary.engine.shelf import EngineShelf
from gary.errors import DeviceError, ModelAway

_log = logging.getLogger("ray.serve")
_LAST_WORDS_S = 0.5  # for whoever listens to hear why

StartEngine = Callable[[str, EngineConfig], Engine]


def start_engine(checkpoint: str, config: EngineConfig) -> Engine:
    """Loads a checkpoint and warms it up; torch is imported here, in the replica, and nowhere else."""
    from gary.engine.batching import BatchingEngine

    return BatchingEngine.start(checkpoint, config)


def end_process() -> None:
    """At once: a device that has failed can hang whoever tidies up."""
    os._exit(1)


class MusicGen:
    """Serves the models of one size; ready once the first of them, the base, has made a real forward pass.

    Args:
        start: loads a checkpoint; blocking.
        leave: ends this process, once its device has failed. Serve would replace it only after three failed health
            checks, and until then every task would spend its attempts on it.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        models: tuple[ModelSpec, ...],
        config: EngineConfig,
        start: StartEngine = start_engine,
        leave: Callable[[], None] = end_process,
        tracing_config: TracingConfig | None = None,
    ) -> None:
        logs.begin()
        self._tracing = tracing.begin(tracing_config)
        self._leave = leave
        self._meter = Meter()
        self._engine_meter = EngineMeter(self._meter)
        self._checkpoints = {model.name: model.checkpoint for model in models}
        self._probe = Probe(config.probe_s, config.stall_s)
        base = models[0].checkpoint
        self._shelf = EngineShelf(lambda checkpoint: start(checkpoint, config), config.resident_bytes, pinned=base)
        async with self._shelf.use(base):
            pass

    async def generate(
        self,
        model: str,
        request: GenerationRequest,
        prompt: Parcel[Clip] | CodePrompt | None,
        trace: str | None = None,
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Streams what the engine tells; cancelling the call aborts the request. Errors as `Engine.generate`.

        Args:
            model: a name from this deployment's list.
            prompt: what is in a parcel arrives as read-only shared memory; codes are a few kB.
            trace: a traceparent.
        """
        if (checkpoint := self._checkpoints.get(model)) is None:
            raise ModelAway(f"this replica has no model {model!r}; it may be another version's")
        taken = await prompt.open() if isinstance(prompt, Parcel) else prompt
        pace = RequestPace(self._meter)
        try:
            with Hearing(self._tracing, trace, model, request) as hearing:
                async with (
                    self._shelf.use(checkpoint) as engine,
                    aclosing(self._probe.watch(engine.generate(request, taken))) as events,
                ):
                    hearing.loaded()
                    async for event in events:
                        pace.hear(event)
                        hearing.hear(event)
                        yield event
            pace.done()
            _log.info("request %s is done", request.id, extra={"length_s": request.duration_s})
        except DeviceError as error:
            _log.error("this replica ends itself: %s", error)
            asyncio.get_running_loop().call_later(_LAST_WORDS_S, self._leave)
            raise

    async def check_health(self) -> None:
        """Serve asks; an error has the replica replaced. Ready means a real pass lately, not a process that answers."""
        self._engine_meter.tell(self._shelf.engines)
        self._shelf.check_health()
        with self._shelf.hold_last() as engine:
            if engine is not None:
                await self._probe.check(engine)

    async def record_routing_stats(self) -> dict[str, Any]:
        """Serve asks, and tells `deployments.routing` in every caller."""
        resident = set(self._shelf.resident)
        return {MODELS: [name for name, checkpoint in self._checkpoints.items() if checkpoint in resident]}

    def __del__(self) -> None:
        self._shelf.close()


_ROUTING = RequestRouterConfig.model_validate(
    {"request_router_class": PreferLoaded, "request_routing_stats_period_s": 1.0}
)

deployment: Deployment = serve.deployment(
    max_ongoing_requests=16,
    ray_actor_options={"num_cpus": 1},
    health_check_period_s=2,
    health_check_timeout_s=30,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=180,
    request_router_config=_ROUTING,
)(MusicGen)
