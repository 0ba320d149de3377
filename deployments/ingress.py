"""HTTP in, task out: hosts gary.api, and reaches the other deployments by their handles.

Every GET reads the database alone, so any replica answers for any task.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve import Deployment

from deployments.handles import Handle, detach, result
from gary.api.app import create_api
from gary.api.services import Health, Services
from gary.config import AppArgs
from gary.errors import DatabaseUnavailable, GaryError
from gary.tasks.store import TaskStore

_log = logging.getLogger("ray.serve")
_HEALTH_TIMEOUT_S = 3.0
_WORKERS = {"Conductor", "Fetcher", "Cropper"}


class Ingress:
    """Args:
    uri: of the database.
    """

    def __init__(self, args: AppArgs, uri: str, conductor: Handle, cropper: Handle) -> None:
        self._args = args
        self._store = TaskStore(uri, args.database, args.tasks)
        self._conductor = conductor
        self._desk = CropperDesk(cropper)

    def __serve_build_asgi_app__(self) -> FastAPI:
        services = Services(
            store=self._store,
            audio=self._desk,
            begin=lambda task_id: detach(self._begin(task_id)),
            health=self._health,
            new_seed=lambda: secrets.randbelow(2**31),
            models=self._args.models,
            default_model=self._args.default_model,
            limits=self._args.limits,
            sources=self._args.sources,
        )
        return create_api(services)

    async def _begin(self, task_id: str) -> None:
        """Hands a task to a conductor; where none takes it now, the sweeper finds it in the store."""
        try:
            await result(self._conductor.run.remote(task_id), "the conductor")
        except GaryError as error:
            _log.warning("task %s is left to the sweeper: %s", task_id, error)

    async def _health(self) -> Health:
        """Asks the database and Serve's controller; what does not answer in time is down.

        Live means that a task sent now is worked on now: every deployment that it passes takes calls.
        """
        mongodb, ready = await asyncio.gather(self._database_answers(), _ready_deployments())
        models = {f"MusicGen-{size}" for size in self._args.sizes}
        return Health(mongodb=mongodb, pytorch=models <= ready, ray=ready >= _WORKERS)

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT_S):
                await self._store.ping()
        except (TimeoutError, DatabaseUnavailable):
            return False
        return True


class CropperDesk:
    """gary.api's AudioDesk, by the cropper's handle."""

    def __init__(self, cropper: Handle) -> None:
        self._cropper = cropper

    async def probe(self, data: bytes) -> float:
        return float(await result(self._cropper.probe.remote(data), "the cropper"))

    async def crop(self, data: bytes, start_s: float, end_s: float) -> bytes:
        return bytes(await result(self._cropper.crop_to_mp3.remote(data, start_s, end_s), "the cropper"))

    async def join(self, clips: Sequence[bytes]) -> bytes:
        return bytes(await result(self._cropper.join_to_mp3.remote(clips), "the cropper"))

    async def to_mp3(self, data: bytes) -> bytes:
        return bytes(await result(self._cropper.to_mp3.remote(data), "the cropper"))


async def _ready_deployments() -> set[str]:
    """This application's deployments that take calls; none where Serve's controller does not answer."""
    app_name = serve.get_replica_context().app_name
    try:
        async with asyncio.timeout(_HEALTH_TIMEOUT_S):
            status = await asyncio.to_thread(serve.status)
    except (TimeoutError, RayError):
        return set()
    deployments = status.applications[app_name].deployments
    return {
        name
        for name, deployment in deployments.items()
        # scaled to zero on purpose is healthy with no replica
        if any(state == "RUNNING" and count for state, count in deployment.replica_states.items())
        or deployment.status == "HEALTHY"
    }


deployment: Deployment = serve.deployment(
    max_ongoing_requests=200,
    ray_actor_options={"num_cpus": 0.5},
    health_check_period_s=1,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=60,
)(serve.ingress()(Ingress))
