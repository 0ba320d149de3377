"""A music job: an opening, MusicGen's stream after it, and the takes that come of both.

What is streamed is what is stored: each stretch is joined, limited and made 16 bits where it arrives, told to the
store's listeners, and put into the file as it is. So nothing is left to be encoded at the end.
"""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic

import numpy as np
from pydantic import JsonValue

from deployments.clock import StageClock
from deployments.handles import Calls, Handle, player, result, stream
from deployments.opening import Opener, Opening
from deployments.scribe import Scribe
from gary.audio import codes as code_files
from gary.audio.answer import Answer, Shape
from gary.audio.codes import CodeArray, Codes
from gary.audio.pcm import SAMPLE_BYTES, Int16
from gary.engine.request import (
    AudioStretch,
    Began,
    CodePrompt,
    GenerationParams,
    GenerationRequest,
    Progress,
    TakeCodes,
)
from gary.errors import InvalidInput
from gary.tasks.music import MusicJob, Receipt, Sheet
from gary.tasks.store import MadeTake, TaskStore
from gary.tasks.task import Claim, Status


@dataclass(frozen=True, eq=False)
class MadeMusic:
    """What an attempt brought: the takes and what is to be said about them."""

    takes: tuple[MadeTake, ...]
    receipt: Receipt
    facts: Mapping[str, JsonValue]

    async def hand_in(self, store: TaskStore, claim: Claim) -> None:
        """Errors as of `TaskStore.finish_music`."""
        await store.finish_music(claim, self.takes, self.receipt, self.facts)


@dataclass(eq=False)
class _Session:
    """What the stream has brought so far.

    Attributes:
        drawn_s: when the last frame was drawn, monotonic.
        rendering_s: from then to its last sample.
    """

    began: Began
    sheet: Sheet
    answers: list[Answer]
    codes: dict[int, CodeArray]  # by take, [K, T] of what the model was given and made
    drawn_s: float = 0.0
    rendering_s: float = 0.0


class MusicWork:
    """Args:
    musicgen: the deployment that serves each model, by the model's name.
    progress_s: least time between two writes of progress.
    """

    def __init__(
        self, store: TaskStore, opener: Opener, cropper: Handle, musicgen: Mapping[str, Handle], progress_s: float
    ) -> None:
        self._store = store
        self._opener = opener
        self._cropper = cropper
        self._musicgen = musicgen
        self._progress_s = progress_s

    async def make(self, claim: Claim, job: MusicJob, calls: Calls) -> MadeMusic:
        """Does a task's job. Raises GaryError: of whoever failed."""
        clock = StageClock()
        with calls.stage("fetching"):
            opening = await self._opener.open(claim, job, calls)
        clock.end("fetching_s")
        with calls.stage("generating"):
            try:
                session = await self._played(claim, job, opening, calls)
            except InvalidInput as error:
                if error.code != "other_codec" or not isinstance(opening.prompt, CodePrompt):
                    raise
                opening = await self._opener.by_ear(opening, calls)
                session = await self._played(claim, job, opening, calls)
        clock.end("generating_s")
        with calls.stage("encoding"):
            await self._store.advance(claim, Status.ENCODING)
            takes = await asyncio.to_thread(_takes, job, opening, session)
        clock.end("encoding_s")
        facts = {**_facts(job, opening, session), **clock.stages_s}
        return MadeMusic(takes, _receipt(job, opening, session), facts)

    async def _played(self, claim: Claim, job: MusicJob, opening: Opening, calls: Calls) -> _Session:
        """Has MusicGen go on from the opening, and tells the store of it meanwhile."""
        musicgen = player(self._musicgen, job.model).options(stream=True)
        request = _request(claim, job, opening)
        playing = musicgen.generate.remote(job.model, request, opening.prompt, **calls.told)
        session: _Session | None = None
        async with (
            Scribe(self._store, claim, self._progress_s) as scribe,
            aclosing(stream(playing, "MusicGen")) as events,
        ):
            async for event in events:
                if isinstance(event, Began):
                    session = await self._begun(claim, job, opening, event, calls)
                    _tell_kept(scribe, session.answers[0].kept, job.takes)
                    continue
                assert session is not None, f"{type(event).__name__} came before the music began"
                match event:
                    case AudioStretch(clip=clip, take=take):
                        start_sample, pcm = session.answers[take].push(clip.samples)
                        scribe.audio(take, start_sample, pcm, SAMPLE_BYTES * clip.channels)
                    case Progress(frames_done=done, frames_total=total):
                        scribe.progress(done, total)
                        session.drawn_s = monotonic()
                    case TakeCodes(take=take, codes=codes):
                        session.codes[take] = codes
        assert session is not None, "MusicGen ended before it began"
        session.rendering_s = monotonic() - session.drawn_s
        return session

    async def _begun(self, claim: Claim, job: MusicJob, opening: Opening, began: Began, calls: Calls) -> _Session:
        kept = await self._kept(opening, began, calls)
        past_samples = opening.kept.past_samples if opening.kept is not None else 0
        skip_samples = began.prompt_samples + past_samples if kept is not None else 0
        length_samples = began.length_samples - skip_samples + (0 if kept is None else kept.shape[0])
        rate_hz, channels, plan = began.card.sample_rate_hz, began.card.channels, opening.plan
        sheet = Sheet(
            sample_rate_hz=rate_hz,
            channels=channels,
            source_samples=began.prompt_samples if kept is None else kept.shape[0],
            length_samples=length_samples,
            prompt_s=plan.prompt_s,
            tempo_bpm=plan.tempo_bpm,
            tempo_confidence=plan.tempo_confidence,
            tempo_assumed=plan.tempo_assumed,
            bars=plan.bars,
        )
        await self._store.begin_music(claim, sheet)
        shape = Shape(rate_hz, channels, length_samples, skip_samples)
        return _Session(began, sheet, [Answer(shape, kept) for _ in range(job.takes)], {})

    async def _kept(self, opening: Opening, began: Began, calls: Calls) -> Int16 | None:
        """[N, C] of the source, as they were where model and source agree in rate and channels."""
        if opening.kept is None:
            return None
        source, card = opening.kept.pcm, began.card
        if (source.rate_hz, source.channels) == (card.sample_rate_hz, card.channels):
            return source.integers
        fitting = self._cropper.fit.remote(source, card.sample_rate_hz, card.channels, **calls.told)
        fitted: Int16 = await result(calls.made(fitting), "the cropper")
        return fitted


def _tell_kept(scribe: Scribe, kept: Int16 | None, takes: int) -> None:
    """Every take begins with it."""
    if kept is not None:
        pcm = kept.astype("<i2", copy=False).tobytes()
        for take in range(takes):
            scribe.audio(take, 0, pcm, SAMPLE_BYTES * kept.shape[1])


def _request(claim: Claim, job: MusicJob, opening: Opening) -> GenerationRequest:
    past_s = opening.kept.past_samples / opening.kept.pcm.rate_hz if opening.kept is not None else 0.0
    return GenerationRequest(
        id=f"{claim.task.id}-{claim.fence}",
        duration_s=opening.plan.prompt_s + past_s + opening.plan.new_s,
        seed=job.seed,
        description=job.description,
        params=GenerationParams(**job.sampling.model_dump()),
        takes=job.takes,
    )


def _takes(job: MusicJob, opening: Opening, session: _Session) -> tuple[MadeTake, ...]:
    duration_s = session.sheet.length_samples / session.sheet.sample_rate_hz
    return tuple(
        MadeTake(
            seed=job.seed + take,
            wav=answer.wav(),
            codes=code_files.pack(_codes(opening, session, session.codes[take])),
            duration_s=duration_s,
        )
        for take, answer in enumerate(session.answers)
    )


def _codes(opening: Opening, session: _Session, made: CodeArray) -> Codes:
    """The codes of a whole answer: what the parent has of what is kept, then `made`."""
    card = session.began.card
    if opening.codes is not None:
        codes = np.concatenate([opening.codes.codes, made], axis=1)
        return Codes(codes, card.codec_sha256, card.frame_samples, opening.codes.start_sample)
    start_sample = session.sheet.source_samples - session.began.prompt_samples
    return Codes(made, card.codec_sha256, card.frame_samples, start_sample)


def _receipt(job: MusicJob, opening: Opening, session: _Session) -> Receipt:
    card = session.began.card
    return Receipt(
        model=job.model,
        checkpoint_sha256=card.checkpoint_sha256,
        codec_sha256=card.codec_sha256,
        engine_version=card.engine_version,
        precision=card.precision,
        device=card.device,
        input_sha256=opening.input_sha256,
        length_samples=session.began.length_samples,
        description=job.description,
        seed=job.seed,
        takes=job.takes,
        sampling=job.sampling,
    )


def _facts(job: MusicJob, opening: Opening, session: _Session) -> dict[str, JsonValue]:
    plan, sheet = opening.plan, session.sheet
    return {
        "tempo_bpm": plan.tempo_bpm,
        "tempo_confidence": plan.tempo_confidence,
        "bars": plan.bars,
        "prompt_s": plan.prompt_s,
        "duration_s": sheet.length_samples / sheet.sample_rate_hz,
        "seed": job.seed,
        "rendering_s": round(session.rendering_s, 3),
    }
