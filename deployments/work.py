"""What one attempt at a task does: for the old routes here, for music jobs in `deployments.music`.

Source samples pass from deployment to deployment as parcels and not through here; only what MusicGen made, streamed
as it comes, is gathered here. Given up at any point, it cancels every call that it has made: the download, ffmpeg and
the engine's request end with it.
"""

import logging
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic

from pydantic import JsonValue

from deployments.clock import StageClock
from deployments.handles import Calls, Handle, Parcel, parcel, player, result, stream
from deployments.music import MadeMusic, MusicWork
from deployments.opening import Opener
from deployments.tracing import OFF, Tracing
from gary.audio.clip import Clip
from gary.audio.plan import Plan
from gary.config import Limits
from gary.engine.request import AudioStretch, GenerationParams, GenerationRequest, Progress
from gary.errors import DatabaseUnavailable
from gary.links import Link
from gary.tasks.music import MusicJob
from gary.tasks.store import TaskStore
from gary.tasks.task import Claim, ContinueJob, GenerateJob, Status

_log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Made:
    """What an attempt brought: the encoded answer and what is to be said about it."""

    wav: bytes
    facts: dict[str, JsonValue]

    async def hand_in(self, store: TaskStore, claim: Claim) -> None:
        """Errors as of `TaskStore.finish`."""
        await store.finish(claim, self.wav, self.facts)


@dataclass(frozen=True)
class Staff:
    """Who does the work.

    Attributes:
        musicgen: the deployment that serves each model, by the model's name.
    """

    fetcher: Handle
    cropper: Handle
    musicgen: dict[str, Handle]


class Work:
    """Args:
    progress_s: least time between two writes of progress.
    """

    def __init__(
        self, store: TaskStore, staff: Staff, limits: Limits, progress_s: float, tracing: Tracing = OFF
    ) -> None:
        self._store = store
        self._tracing = tracing
        self._fetcher = staff.fetcher
        self._cropper = staff.cropper
        self._musicgen = staff.musicgen
        self._progress_s = progress_s
        opener = Opener(store, staff.fetcher, staff.cropper, limits)
        self._music = MusicWork(store, opener, staff.cropper, staff.musicgen, progress_s)

    async def make(self, claim: Claim) -> Made | MadeMusic:
        """Does a task's job.

        Raises:
            GaryError: of whoever failed.
        """
        with Calls(self._tracing, self._tracing.attempt(claim.task.id, claim.fence)) as calls:
            match claim.task.job:
                case GenerateJob() as job:
                    return await self._generate(claim, job, calls)
                case ContinueJob() as job:
                    return await self._continue(claim, job, calls)
                case MusicJob() as job:
                    return await self._music.make(claim, job, calls)

    async def _generate(self, claim: Claim, job: GenerateJob, calls: Calls) -> Made:
        clock = StageClock()
        with calls.stage("fetching"):
            link = Link(site=job.site, url=job.link)
            fetching = calls.made(self._fetcher.fetch.remote(link, job.start_s, **calls.told))
            data = await parcel(fetching, "the fetcher")
            decoding = self._cropper.decode_source.remote(data, job.start_s, job.prompt_s, **calls.told)
            source = await parcel(calls.made(decoding), "the cropper")
            planning = self._cropper.plan.remote(source, job.prompt_s, job.min_s, job.max_s, **calls.told)
            plan: Plan = await result(calls.made(planning), "the cropper")
        clock.end("fetching_s")
        with calls.stage("generating"):
            taking = calls.made(self._cropper.take_prompt.remote(source, plan, **calls.told))
            prompt = await parcel(taking, "the cropper")
            stretches = await self._continuation(claim, job, plan.length_s, prompt, calls)
        clock.end("generating_s")
        with calls.stage("encoding"):
            await self._store.advance(claim, Status.ENCODING)
            encoding = calls.made(self._cropper.encode_generated.remote(stretches, **calls.told))
            wav, duration_s = await result(encoding, "the cropper")
        clock.end("encoding_s")
        facts: dict[str, JsonValue] = {
            "tempo_bpm": plan.tempo_bpm,
            "tempo_confidence": plan.tempo_confidence,
            "bars": plan.bars,
            "prompt_s": plan.prompt_s,
        }
        return Made(wav, {**facts, "duration_s": duration_s, "seed": job.seed, **clock.stages_s})

    async def _continue(self, claim: Claim, job: ContinueJob, calls: Calls) -> Made:
        clock = StageClock()
        with calls.stage("fetching"):
            upload = await self._store.read_upload(claim.task)
            decoding = calls.made(self._cropper.decode.remote(upload, **calls.told))
            original = await parcel(decoding, "the cropper")
            taking = calls.made(self._cropper.tail.remote(original, job.prompt_s, **calls.told))
            prompt = await parcel(taking, "the cropper")
        clock.end("fetching_s")
        with calls.stage("generating"):
            stretches = await self._continuation(claim, job, job.length_s, prompt, calls)
        clock.end("generating_s")
        with calls.stage("encoding"):
            await self._store.advance(claim, Status.ENCODING)
            encoding = self._cropper.encode_continued.remote(original, job.prompt_s, stretches, **calls.told)
            wav, duration_s = await result(calls.made(encoding), "the cropper")
        clock.end("encoding_s")
        return Made(wav, {"prompt_s": job.prompt_s, "duration_s": duration_s, "seed": job.seed, **clock.stages_s})

    async def _continuation(
        self, claim: Claim, job: GenerateJob | ContinueJob, length_s: float, prompt: Parcel[Clip], calls: Calls
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
        musicgen = player(self._musicgen, job.model).options(stream=True)
        playing = musicgen.generate.remote(job.model, request, prompt, **calls.told)
        stretches: list[Clip] = []
        written_s = monotonic()
        async with aclosing(stream(playing, "MusicGen")) as events:
            async for event in events:
                match event:
                    case AudioStretch(clip=clip):
                        stretches.append(clip)
                    case Progress(frames_done=done, frames_total=total):
                        if monotonic() - written_s >= self._progress_s:
                            written_s = monotonic()
                            await self._tell(claim, done / total)
        return stretches

    async def _tell(self, claim: Claim, fraction: float) -> None:
        """Progress is worth no attempt: while the database is away, the work goes on."""
        try:
            await self._store.set_progress(claim, fraction)
        except DatabaseUnavailable as error:
            _log.warning("task %s: progress not written: %s", claim.task.id, error)
