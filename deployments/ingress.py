"""HTTP in, task out: hosts gary.api, and reaches the other deployments by their handles.

Every GET reads the database alone, so any replica answers for any task.
"""

import asyncio
import contextvars
import logging
import math
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from time import monotonic
from typing import Any, TypeVar

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve import Deployment
from ray.serve.schema import DeploymentStatusOverview, ServeStatus

from deployments import logs, tracing
from deployments.handles import Handle, detach, result
from deployments.logs import on_task
from deployments.metrics import AUDIO_SERVED, LISTENERS, Meter
from deployments.task_trace import Acceptances, note_accepted
from deployments.witness import TaskWitness
from gary.api.app import create_api
from gary.api.errors import route_pattern
from gary.api.services import Health, Services
from gary.api.traffic import Traffic
from gary.config import AppArgs
from gary.errors import GaryError
from gary.tasks.music import Format
from gary.tasks.store import TaskStore
from gary.tasks.task import QueueState

_log = logging.getLogger("ray.serve")
_HEALTH_TIMEOUT_S = 3.0
_HEALTH_FRESH_S = 0.5
_WORKERS = {"Conductor", "Fetcher", "Cropper"}

T = TypeVar("T")


class Ingress:
    """Args:
    uri: of the database.
    """

    def __init__(self, args: AppArgs, uri: str, conductor: Handle, cropper: Handle) -> None:
        logs.begin()
        self._args = args
        self._meter, self._traffic = Meter(), Traffic()
        self._tracing = tracing.begin(args.tracing)
        witness = TaskWitness(self._meter, self._tracing)
        self._store = TaskStore(uri, args.database, args.tasks, args.limits.unfinished_tasks, witness)
        self._conductor = conductor
        self._desk = CropperDesk(cropper)
        self._probe = HealthProbe(self._store, args.sizes)

    def __serve_build_asgi_app__(self) -> FastAPI:
        services = Services(
            store=self._store,
            audio=self._desk,
            begin=self._accepted,
            health=self._probe.health,
            new_seed=lambda: secrets.randbelow(2**31),
            models=self._args.models,
            default_model=self._args.default_model,
            limits=self._args.limits,
            access=self._args.access,
            sources=self._args.sources,
            traffic=self._traffic,
        )
        api = create_api(services, adds_request_id=False)  # Serve's proxy does, to every answer
        if self._tracing.on:
            api.add_middleware(Acceptances, tracing=self._tracing, route_of=route_pattern)
        return api

    def check_health(self) -> None:
        """Serve asks every second: the time to say how much is listened to."""
        traffic, meter = self._traffic, self._meter
        meter.add_up_to(AUDIO_SERVED, traffic.file_bytes, traffic, kind="file")
        meter.add_up_to(AUDIO_SERVED, traffic.live_bytes, traffic, kind="live")
        meter.set(LISTENERS, traffic.live, kind="live")
        meter.set(LISTENERS, traffic.events, kind="events")

    def _accepted(self, task_id: str) -> None:
        note_accepted(task_id)
        detach(self._begin(task_id))

    async def _begin(self, task_id: str) -> None:
        """Hands a task to a conductor; where none takes it now, the sweeper finds it in the store."""
        with on_task(task_id):
            try:
                await result(self._conductor.run.remote(task_id), "the conductor")
            except GaryError as error:
                _log.warning("task %s is left to the sweeper: %s", task_id, error)


class HealthProbe:
    """Asks the database and Serve's controller, each within _HEALTH_TIMEOUT_S; what does not answer in time is down.

    Anybody may ask for health, any number of times, so one answer serves all who ask within _HEALTH_FRESH_S.

    Args:
        sizes: of the models; each is served by a deployment of its own.
    """

    def __init__(self, store: TaskStore, sizes: Sequence[str]) -> None:
        self._store = store
        self._sizes = tuple(sizes)
        self._asked_s = -math.inf
        self._answer: asyncio.Task[Health] | None = None
        self._controller: asyncio.Task[ServeStatus] | None = None

    async def health(self) -> Health:
        if self._answer is None or (self._answer.done() and monotonic() - self._asked_s > _HEALTH_FRESH_S):
            self._asked_s = monotonic()
            self._answer = _apart(self._ask())
        return await asyncio.shield(self._answer)

    async def _ask(self) -> Health:
        """Live means that a task sent now is worked on now: every deployment that it passes takes calls."""
        queue, deployments = await asyncio.gather(self._queue(), self._deployments())
        taking = {name for name, status in deployments.items() if _takes_calls(status)}
        models = {size: deployments.get(f"MusicGen-{size}") for size in self._sizes}
        return Health(
            mongodb=queue is not None,
            pytorch={f"MusicGen-{size}" for size in self._sizes} <= taking,
            ray=taking >= _WORKERS,
            queue=queue,
            ready={size: _ready(status) if status is not None else 0 for size, status in models.items()},
        )

    async def _queue(self) -> QueueState | None:
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT_S):
                return await self._store.queue()
        except (TimeoutError, GaryError) as error:
            _log.warning("the database does not answer: %s", error)
            return None

    async def _deployments(self) -> Mapping[str, DeploymentStatusOverview]:
        """This application's deployments by name; none where Serve's controller does not answer.

        Serve's call blocks and cannot be given up, so no second one is made while one is under way.
        """
        if self._controller is None or self._controller.done():
            self._controller = _apart(asyncio.to_thread(serve.status))
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT_S):
                status = await asyncio.shield(self._controller)
        except (TimeoutError, RayError) as error:
            _log.warning("Serve's controller does not answer: %s", error)
            return {}
        application = status.applications.get(serve.get_replica_context().app_name)
        return application.deployments if application is not None else {}


def _apart(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Work for several requests: it goes on when the one that began it is cancelled."""
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context())


def _ready(deployment: DeploymentStatusOverview) -> int:
    """Replicas that run. Serve takes one that fails its health check out of these, and replaces it."""
    return sum(count for state, count in deployment.replica_states.items() if state == "RUNNING")


def _takes_calls(deployment: DeploymentStatusOverview) -> bool:
    return _ready(deployment) > 0 or deployment.status == "HEALTHY"  # scaled to zero on purpose


class CropperDesk:
    """gary.api's AudioDesk, by the cropper's handle."""

    def __init__(self, cropper: Handle) -> None:
        self._cropper = cropper

    async def probe(self, data: bytes) -> float:
        return float(await result(self._cropper.probe.remote(data), "the cropper"))

    async def crop(self, data: bytes, start_s: float, end_s: float) -> bytes:
        return await self.crop_to(data, start_s, end_s, "mp3")

    async def join(self, clips: Sequence[bytes]) -> bytes:
        return await self.join_to(clips, "mp3")

    async def to_mp3(self, data: bytes) -> bytes:
        return bytes(await result(self._cropper.to_mp3.remote(data), "the cropper"))

    async def convert(self, wav: bytes, form: Format) -> bytes:
        return bytes(await result(self._cropper.convert.remote(wav, form), "the cropper"))

    async def crop_to(self, data: bytes, start_s: float, end_s: float | None, form: Format) -> bytes:
        return bytes(await result(self._cropper.crop_to.remote(data, start_s, end_s, form), "the cropper"))

    async def join_to(self, clips: Sequence[bytes], form: Format) -> bytes:
        return bytes(await result(self._cropper.join_to.remote(clips, form), "the cropper"))


deployment: Deployment = serve.deployment(
    max_ongoing_requests=200,
    ray_actor_options={"num_cpus": 0.5},
    health_check_period_s=1,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=60,
)(serve.ingress()(Ingress))
