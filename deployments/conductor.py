"""Runs a task from queued to done: lease, fetch, generate, encode, store.

It holds handles and the task store, never a model, a file or a decoder. Source samples pass from deployment to
deployment as responses and not through here; only what MusicGen made, streamed as it comes, is gathered here.

A task's worker holds a lease that it renews; a worker that is not heard of loses the task to another, and whatever it
writes then is refused by the store. A sweeper finds what waits or was left behind, and starts it through the
conductor's own handle, so that Serve counts and drains that work.
"""

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from uuid import uuid4

from ray import serve
from ray.serve import Deployment

from deployments.handles import Handle, Response, detach, result, stream
from gary.audio.clip import Clip
from gary.audio.plan import Plan
from gary.config import AppArgs
from gary.engine.request import AudioStretch, GenerationParams, GenerationRequest, Progress
from gary.errors import DatabaseUnavailable, GaryError, LeaseLost, RecoverableError, ServerError, SourceUnavailable
from gary.links import Link
from gary.tasks.store import TaskStore
from gary.tasks.task import Claim, ContinueJob, GenerateJob, Status

_log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class _Made:
    """What an attempt brought: the encoded answer and what is to be said about it."""

    wav: bytes
    facts: dict[str, float | int | str | None]


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
        if database is not None:
            await result(database.uri.remote(), "the database")
        self._args = args.tasks
        self._sizes = {model.name: model.size for model in args.models}
        self._fetcher = fetcher
        self._cropper = cropper
        self._musicgen = musicgen
        self._store = TaskStore(uri, args.database, args.tasks)
        await self._store.open()
        self._owner = f"conductor-{uuid4().hex[:12]}"
        self._sent: set[str] = set()
        detach(self._sweep())

    async def run(self, task_id: str) -> None:
        """One attempt at a task, if it is to be had; every outcome but a lost worker is written to the store."""
        claim = await self._store.claim(task_id, self._owner)
        if claim is None:
            return
        try:
            await self._under_lease(claim)
        except LeaseLost as error:
            _log.info("task %s: %s", task_id, error)
        except SourceUnavailable as error:  # the downloader has tried again itself; now it is the musician's turn
            await self._store.fail(claim, error)
        except RecoverableError as error:
            _log.warning("task %s, attempt %d: %s", task_id, claim.task.attempts, error)
            if claim.task.attempts >= self._args.max_attempts:
                await self._store.fail(claim, error)
            else:
                await self._store.release(claim, error)
                detach(self._begin(task_id))
        except GaryError as error:
            await self._store.fail(claim, error)
        except Exception:  # noqa: BLE001  a bug of ours: the musician hears of it now, not after three leases
            _log.exception("task %s failed", task_id)
            await self._store.fail(claim, ServerError("the service failed; the fault is ours and has been logged"))

    async def _under_lease(self, claim: Claim) -> None:
        """Works and stores while another coroutine renews the lease; stops when the lease is lost."""
        try:
            async with asyncio.TaskGroup() as group:
                renewal = group.create_task(self._renew(claim))
                made = await self._work(claim)
                await self._store.finish(claim, made.wav, made.facts)
                renewal.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def _renew(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self._args.lease_s / 3)
            try:
                await self._store.renew(claim)
            except DatabaseUnavailable as error:  # the work goes on: its result is fenced in any case
                _log.warning("task %s: lease not renewed: %s", claim.task.id, error)

    async def _work(self, claim: Claim) -> _Made:
        match claim.task.job:
            case GenerateJob() as job:
                return await self._generate(claim, job)
            case ContinueJob() as job:
                return await self._continue(claim, job)

    async def _generate(self, claim: Claim, job: GenerateJob) -> _Made:
        clock = _StageClock()
        data = self._fetcher.fetch.remote(Link(site=job.site, url=job.link), job.start_s)
        source = self._cropper.decode_source.remote(data, job.start_s, job.prompt_s)
        plan: Plan = await result(self._cropper.plan.remote(source, job.prompt_s, job.min_s, job.max_s), "the fetch")
        clock.end("fetching_s")
        prompt = self._cropper.take_prompt.remote(source, plan)
        stretches = await self._make(claim, job, plan.length_s, prompt)
        clock.end("generating_s")
        await self._store.advance(claim, Status.ENCODING)
        encoding = self._cropper.encode_generated.remote(stretches)
        wav, duration_s = await result(encoding, "the cropper")
        clock.end("encoding_s")
        facts = {
            "tempo_bpm": plan.tempo_bpm,
            "tempo_confidence": plan.tempo_confidence,
            "bars": plan.bars,
            "prompt_s": plan.prompt_s,
        }
        return _Made(wav, {**facts, "duration_s": duration_s, "seed": job.seed, **clock.stages_s})

    async def _continue(self, claim: Claim, job: ContinueJob) -> _Made:
        clock = _StageClock()
        upload = await self._store.read_upload(claim.task)
        original = self._cropper.decode.remote(upload)
        prompt = self._cropper.tail.remote(original, job.prompt_s)
        clock.end("fetching_s")
        stretches = await self._make(claim, job, job.length_s, prompt)
        clock.end("generating_s")
        await self._store.advance(claim, Status.ENCODING)
        encoding = self._cropper.encode_continued.remote(original, job.prompt_s, stretches)
        wav, duration_s = await result(encoding, "the cropper")
        clock.end("encoding_s")
        return _Made(wav, {"prompt_s": job.prompt_s, "duration_s": duration_s, "seed": job.seed, **clock.stages_s})

    async def _make(
        self, claim: Claim, job: GenerateJob | ContinueJob, length_s: float, prompt: Response
    ) -> list[Clip]:
        """Has MusicGen go on from `prompt`, which reaches it as shared memory; the answer's stretches, in order."""
        await self._store.advance(claim, Status.GENERATING)
        request = GenerationRequest(
            id=f"{claim.task.id}-{claim.fence}",
            duration_s=length_s,
            seed=job.seed,
            description=job.description,
            params=GenerationParams(**job.sampling.model_dump()),
        )
        musicgen = self._musicgen[self._sizes[job.model]].options(stream=True)
        stretches: list[Clip] = []
        written_s = monotonic()
        async with aclosing(stream(musicgen.generate.remote(job.model, request, prompt), "MusicGen")) as events:
            async for event in events:
                match event:
                    case AudioStretch(clip=clip):
                        stretches.append(clip)
                    case Progress(frames_done=done, frames_total=total):
                        if monotonic() - written_s >= self._args.progress_s:
                            written_s = monotonic()
                            await self._store.set_progress(claim, done / total)
        return stretches

    async def _sweep(self) -> None:
        """Starts what waits or was left behind, and clears what is past its time."""
        while True:
            await asyncio.sleep(self._args.sweep_s)
            try:
                for task_id in await self._store.claimable(limit=256):
                    if task_id not in self._sent:
                        detach(self._begin(task_id))
                await self._store.collect_garbage()
            except DatabaseUnavailable as error:
                _log.warning("the sweep waits: %s", error)

    async def _begin(self, task_id: str) -> None:
        """Runs a task by a call of its own; what fails here is found again by the next sweep."""
        self._sent.add(task_id)
        context = serve.get_replica_context()
        itself = serve.get_deployment_handle(context.deployment, context.app_name)
        try:
            await result(itself.run.remote(task_id), "the conductor")
        except GaryError as error:
            _log.warning("task %s is left to the next sweep: %s", task_id, error)
        finally:
            self._sent.discard(task_id)


class _StageClock:
    """Seconds of each stage, from one `end` to the next."""

    def __init__(self) -> None:
        self.stages_s: dict[str, float] = {}
        self._since_s = monotonic()

    def end(self, stage: str) -> None:
        now_s = monotonic()
        self.stages_s[stage] = round(now_s - self._since_s, 3)
        self._since_s = now_s


deployment: Deployment = serve.deployment(
    max_ongoing_requests=256,
    ray_actor_options={"num_cpus": 0.5},
    health_check_period_s=2,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=180,
)(Conductor)
