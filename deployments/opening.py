"""What a music job begins with: a prompt for the model, and what of its source is kept.

From a link or an upload the prompt is audio, which goes from replica to replica as a parcel. From an earlier task it
is the codes of that task's end, read here; only where the model's codec cannot read them, or there are none, it is
audio too.
"""

import asyncio
from dataclasses import dataclass

from deployments.handles import Calls, Handle, Parcel, parcel, result
from gary.audio import codes as code_files
from gary.audio import pcm
from gary.audio.clip import Clip
from gary.audio.codes import Codes, codes_sha256
from gary.audio.crop import tail
from gary.audio.plan import LengthWish, MusicPlan, plan_length, whole_frames_s
from gary.audio.stretch import Stretch, cut
from gary.audio.tempo import Tempo
from gary.config import Limits
from gary.engine.request import CodePrompt
from gary.errors import InvalidInput, RecoverableError, UnknownTask
from gary.links import Link
from gary.tasks.music import LinkSource, MusicJob, TaskSource, UploadSource
from gary.tasks.store import TaskStore
from gary.tasks.task import Claim, Status, Task


@dataclass(frozen=True, eq=False)
class Opening:
    """Attributes:
    input_sha256: of the prompt, as in a receipt.
    kept: what the answer begins with instead of the model's rendering of the prompt; None from links and uploads.
    codes: of the parent, those before the prompt, and where they begin; None where none can be gone on from.
    """

    plan: MusicPlan
    prompt: Parcel[Clip] | CodePrompt
    input_sha256: str
    kept: Stretch | None = None
    codes: Codes | None = None


class Opener:
    """Args:
    fetcher, cropper: handles.
    """

    def __init__(self, store: TaskStore, fetcher: Handle, cropper: Handle, limits: Limits) -> None:
        self._store = store
        self._fetcher = fetcher
        self._cropper = cropper
        self._limits = limits

    async def open(self, claim: Claim, job: MusicJob, calls: Calls) -> Opening:
        """Raises GaryError: of whoever failed; UnknownTask (code `source_gone`): the earlier task is no more."""
        match job.source:
            case LinkSource() as source:
                start_s = source.start_s if job.side == "cursor" else 0.0
                link = Link(site=source.site, url=source.link)
                fetching = calls.made(self._fetcher.fetch.remote(link, start_s, **calls.told))
                return await self._from_file(await parcel(fetching, "the fetcher"), job, calls)
            case UploadSource():
                return await self._from_file(await self._store.read_upload(claim.task), job, calls)
            case TaskSource() as source:
                return await self._from_task(job, source, calls)

    async def by_ear(self, opening: Opening, calls: Calls) -> Opening:
        """The same from the samples that are kept, for a model that cannot go on from the codes."""
        assert opening.kept is not None
        return await self._heard(opening.kept, opening.plan, calls)

    async def _from_file(self, data: Parcel[bytes] | bytes, job: MusicJob, calls: Calls) -> Opening:
        decoding = self._cropper.decode_side.remote(data, job.side, job.start_s, job.prompt_s, **calls.told)
        source = await parcel(calls.made(decoding), "the cropper")
        planning = calls.made(self._cropper.plan_music.remote(source, job.prompt_s, _wish(job), **calls.told))
        plan, input_sha256 = await result(planning, "the cropper")
        taking = calls.made(self._cropper.take_prompt.remote(source, plan, **calls.told))
        return Opening(plan, await parcel(taking, "the cropper"), input_sha256)

    async def _from_task(self, job: MusicJob, source: TaskSource, calls: Calls) -> Opening:
        parent = await self._parent(source)
        music, codes = await self._music_of(parent, source)
        stretch = await asyncio.to_thread(cut, music, codes, source.start_s, source.end_s, job.prompt_s)
        tempo = await self._tempo(parent, stretch, job, calls)
        length_s = stretch.pcm.length_samples / music.rate_hz
        plan = plan_length(min(job.prompt_s, length_s), _wish(job), tempo, self._limits.new_music_max_s)
        if codes is None or stretch.prompt is None or stretch.earlier is None:
            return await self._heard(stretch, plan, calls)
        prompt_s = stretch.prompt.shape[1] * codes.frame_samples / music.rate_hz
        prompt = CodePrompt(stretch.prompt, codes.codec_sha256)
        earlier = Codes(stretch.earlier, codes.codec_sha256, codes.frame_samples, stretch.codes_at_sample)
        return Opening(_with_prompt(plan, prompt_s), prompt, codes_sha256(stretch.prompt), stretch, earlier)

    async def _heard(self, stretch: Stretch, plan: MusicPlan, calls: Calls) -> Opening:
        """The prompt as audio: the stretch's end, at its own rate."""
        prompt_s = whole_frames_s(plan.prompt_s)
        clip = await asyncio.to_thread(lambda: tail(stretch.pcm.clip(), prompt_s))
        prompt = await parcel(calls.made(self._cropper.hold.remote(clip, **calls.told)), "the cropper")
        plain = Stretch(stretch.pcm)  # its codes are of no use
        return Opening(_with_prompt(plan, clip.duration_s), prompt, await asyncio.to_thread(clip.sha256), plain)

    async def _tempo(self, parent: Task, stretch: Stretch, job: MusicJob, calls: Calls) -> Tempo | None:
        """The parent's, so that bars go on as they were; heard in the stretch where the parent has none."""
        if job.length.tempo_bpm is not None:
            return None
        if parent.sheet is not None and parent.sheet.tempo_bpm is not None:
            return Tempo(parent.sheet.tempo_bpm, parent.sheet.tempo_confidence)
        bpm, confidence = parent.facts.get("tempo_bpm"), parent.facts.get("tempo_confidence")
        if isinstance(bpm, int | float) and isinstance(confidence, int | float):
            return Tempo(bpm, confidence)
        hearing = calls.made(self._cropper.hear.remote(stretch.pcm, **calls.told))
        heard: Tempo | None = await result(hearing, "the cropper")
        return heard

    async def _parent(self, source: TaskSource) -> Task:
        try:
            parent = await self._store.get(source.task)
        except UnknownTask as error:
            raise _gone(source.task) from error
        if parent.status is not Status.COMPLETED or parent.result is None:
            raise _gone(source.task)
        if source.take >= max(1, len(parent.takes)):
            raise InvalidInput(f"task {source.task} has no take {source.take}", "unknown_take")
        return parent

    async def _music_of(self, parent: Task, source: TaskSource) -> tuple[pcm.Pcm, Codes | None]:
        """The samples of a finished task's take, and their codes, if it has any."""
        try:
            if not parent.takes:  # a task of the old routes
                assert parent.result is not None
                wav, codes = await self._store.read_file(parent.result), None
            else:
                take = parent.takes[source.take]
                wav, codes = await asyncio.gather(self._store.read_file(take.wav), self._store.read_file(take.codes))
        except RecoverableError as error:
            if error.code != "audio_gone":
                raise
            raise _gone(parent.id) from error
        music = await asyncio.to_thread(pcm.read_wav, wav)
        return music, None if codes is None else code_files.unpack(codes)


def _gone(task_id: str) -> UnknownTask:
    return UnknownTask(f"the music of task {task_id}, which this one goes on from, is no longer there", "source_gone")


def _wish(job: MusicJob) -> LengthWish:
    return LengthWish(**job.length.model_dump())


def _with_prompt(plan: MusicPlan, prompt_s: float) -> MusicPlan:
    return MusicPlan(prompt_s, plan.new_s, plan.tempo_bpm, plan.tempo_confidence, plan.bars, plan.tempo_assumed)
