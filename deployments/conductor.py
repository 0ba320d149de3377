"""Runs a task from queued to done: claims it, keeps the lease while `deployments.work` works, stores what came of it.

A task's worker holds a lease that it renews; a worker that is not heard of loses the task to another, and whatever it
writes then is refused by the store. Three loops beside the work, one of each a replica: the lease of each attempt, a
watch that asks once for all attempts whether their tasks are still theirs, and a sweep that starts what waits or was
left behind, through the conductor's own handle, so that Serve counts and drains that work.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from time import monotonic
from uuid import uuid4

from ray import serve
from ray.serve import Deployment

from deployments import logs, tracing
from deployments.handles import Handle, detach, result
from deployments.logs import on_task
from deployments.metrics import Meter
from deployments.music import MadeMusic
from deployments.witness import TaskWitness
from deployments.work import Made, Staff, Work
from gary.config import AppArgs
from gary.errors import Aborted, DatabaseUnavailable, GaryError, LeaseLost, RecoverableError, ServerError
from gary.tasks.queue import backoff_s
from gary.tasks.store import TaskStore
from gary.tasks.task import Claim

_log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class _Sent:
    """A task on its way to some conductor.

    Attributes:
        since_s: monotonic.
    """

    call: asyncio.Task[None]
    since_s: float


class Conductor:
    """Args:
    uri: of the database.
    musicgen: the deployment of each size.
    database: the embedded server's deployment, waited for; None where the database is somebody else's.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        args: AppArgs,
        uri: str,
        fetcher: Handle,
        cropper: Handle,
        musicgen: dict[str, Handle],
        database: Handle | None,
    ) -> None:
        logs.begin()
        if database is not None:
            await result(database.uri.remote(), "the database")
        self._args = args.tasks
        self._tracing = tracing.begin(args.tracing)
        self._witness = TaskWitness(Meter(), self._tracing)
        self._store = TaskStore(uri, args.database, args.tasks, args.limits.unfinished_tasks, self._witness)
        await self._store.open()
        staff = Staff(fetcher, cropper, {model.name: musicgen[model.size] for model in args.models})
        self._work = Work(self._store, staff, args.limits, args.tasks.progress_s, self._tracing)
        self._owner = f"conductor-{uuid4().hex[:12]}"
        self._attempts: dict[tuple[str, int], asyncio.Event] = {}  # by task and fence; set: the task is another's
        self._busy = asyncio.Event()
        self._sent: dict[str, _Sent] = {}  # by task
        self._loops = [asyncio.create_task(self._sweep()), asyncio.create_task(self._watch())]

    async def run(self, task_id: str) -> None:
        """One attempt at a task, if it is to be had; every outcome but a lost worker is written to the store."""
        with on_task(task_id):
            claim = await self._store.claim(task_id, self._owner)
            if claim is None:
                return
            _log.info("task %s begins", task_id, extra={"attempt": claim.task.attempts})
            try:
                await self._attempt(claim)
            except LeaseLost as error:
                _log.info("task %s: %s", task_id, error)

    def check_health(self) -> None:
        """Raises where one of the loops has ended: tasks would be left behind."""
        for loop in self._loops:
            assert not loop.done(), f"a loop of the conductor has ended: {loop}"

    async def _attempt(self, claim: Claim) -> None:
        """Raises LeaseLost: the task was cancelled, restarted or taken over."""
        task = claim.task
        try:
            await self._under_lease(claim)
            _log.info("task %s is completed", task.id)
        except LeaseLost:
            raise
        except (RecoverableError, Aborted) as error:  # aborted: by an engine that is being replaced
            _log.warning("task %s, attempt %d: %s", task.id, task.attempts, error)
            wait_s = await self._store.release(claim, error)
            if wait_s is not None:
                detach(self._begin_after(wait_s, task.id))
        except GaryError as error:
            _log.info("task %s has failed: %s: %s", task.id, error.code, error)
            await self._store.fail(claim, error)
        except Exception:  # noqa: BLE001  a bug of ours: the musician hears of it now, not after three leases
            _log.exception("task %s failed", task.id)
            await self._store.fail(claim, ServerError("the service failed; the fault is ours and has been logged"))

    async def _under_lease(self, claim: Claim) -> None:
        """Works and stores while the lease is kept beside it; ends, and all calls with it, when the lease is lost."""
        try:
            async with asyncio.TaskGroup() as group:
                over = asyncio.Event()
                try:
                    with self._watched(claim) as lost:
                        keeper = group.create_task(self._keep_lease(claim, lost, over))
                        made = await self._work.make(claim)
                    # Watched no longer: a task that is finished in the next moment would look like one that was lost.
                    with self._tracing.span("storing", self._tracing.attempt(claim.task.id, claim.fence)):
                        await self._finish(claim, made)
                finally:
                    # Said beside the cancellation: before Python 3.12 one that meets pymongo's write can be swallowed.
                    over.set()
                keeper.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def _finish(self, claim: Claim, made: Made | MadeMusic) -> None:
        """A result in hand is not thrown away because the database is away, or its disk full, for a while."""
        until_s = monotonic() + self._args.store_patience_s
        for tries in count(1):
            try:
                await made.hand_in(self._store, claim)
                return
            except DatabaseUnavailable as error:
                if monotonic() > until_s:
                    raise
                _log.warning("task %s: the result waits for the database: %s", claim.task.id, error)
                await asyncio.sleep(backoff_s(tries, self._args))

    async def _keep_lease(self, claim: Claim, lost: asyncio.Event, over: asyncio.Event) -> None:
        """Renews the lease until the work is over. Raises LeaseLost: somebody else has the task."""
        while not over.is_set():
            try:
                async with asyncio.timeout(self._args.lease_s / 3):
                    await lost.wait()
            except TimeoutError:
                await self._renew(claim)
            else:
                raise LeaseLost(f"task {claim.task.id} was cancelled, restarted or taken over")

    async def _renew(self, claim: Claim) -> None:
        try:
            await self._store.renew(claim)
        except DatabaseUnavailable as error:  # the work goes on: its result is fenced in any case
            _log.warning("task %s: lease not renewed: %s", claim.task.id, error)

    @contextmanager
    def _watched(self, claim: Claim) -> Iterator[asyncio.Event]:
        """An event that the watch sets once the task is another's."""
        key, lost = (claim.task.id, claim.fence), asyncio.Event()
        self._attempts[key] = lost
        self._busy.set()
        try:
            yield lost
        finally:
            del self._attempts[key]
            if not self._attempts:
                self._busy.clear()

    async def _watch(self) -> None:
        """Tells the attempts whose tasks were cancelled, restarted or taken over. Asks nothing while there are none."""
        while True:
            await self._busy.wait()
            await asyncio.sleep(self._args.watch_s)
            await self._unless_unavailable(self._look_after_attempts)

    async def _look_after_attempts(self) -> None:
        attempts = dict(self._attempts)  # as of before the question: what is claimed after it is not in the answer
        if not attempts:
            return
        held = await self._store.held(self._owner)
        for (task_id, fence), lost in attempts.items():
            if held.get(task_id) != fence:
                lost.set()

    async def _sweep(self) -> None:
        """Starts what waits or was left behind, clears what is past its time, and says how busy the house is."""
        while True:
            await asyncio.sleep(self._args.sweep_s)
            await self._unless_unavailable(self._sweep_once)

    async def _sweep_once(self) -> None:
        try:
            await self._begin_claimable()
            await self._store.collect_garbage()
            self._witness.queue(await self._store.queue())
        except DatabaseUnavailable:
            self._witness.no_database()
            raise

    async def _begin_claimable(self) -> None:
        for task_id in await self._store.claimable(limit=256):
            if sent := self._sent.get(task_id):
                if monotonic() - sent.since_s < self._args.lease_s:
                    continue
                # Nobody has begun it: it waits at a replica that stands still, or behind many. Sent anew, to any.
                sent.call.cancel()
            detach(self._begin(task_id))

    async def _unless_unavailable(self, look: Callable[[], Awaitable[None]]) -> None:
        """One round of a loop, which must outlive whatever the database answers."""
        try:
            await look()
        except GaryError as error:
            _log.warning("%s waits for its next round: %s", look.__name__, error)

    async def _begin_after(self, wait_s: float, task_id: str) -> None:
        """The next attempt, when its time has come; Serve counts no request meanwhile."""
        await asyncio.sleep(wait_s)
        await self._begin(task_id)

    async def _begin(self, task_id: str) -> None:
        """Runs a task by a call of its own; what fails here is found again by the next sweep."""
        call = asyncio.current_task()
        assert call is not None
        self._sent[task_id] = sent = _Sent(call, monotonic())
        context = serve.get_replica_context()
        itself = serve.get_deployment_handle(context.deployment, context.app_name)
        with on_task(task_id):
            try:
                await result(itself.run.remote(task_id), "the conductor")
            except GaryError as error:
                _log.warning("task %s is left to the next sweep: %s", task_id, error)
            finally:
                if self._sent.get(task_id) is sent:
                    del self._sent[task_id]


deployment: Deployment = serve.deployment(
    max_ongoing_requests=256,
    ray_actor_options={"num_cpus": 0.5},
    health_check_period_s=2,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=180,
)(Conductor)
