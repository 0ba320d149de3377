"""The reference engine: audiocraft's own `generate`, one request at a time, first come, first served.

The model is touched by one thread alone, from its first pass to its last; the event loop stays free. What an answer
holds depends on the request and the model, never on what ran before. The batching engine is compared with this one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import soxr
import torch

from gary.audio.clip import Clip, Samples
from gary.config import EngineConfig
from gary.engine.admission import ModelLimits, check_prompt_frames, check_request
from gary.engine.card import checkpoint_sha256
from gary.engine.checkpoint import load
from gary.engine.codec import Codec
from gary.engine.device import TORCH_TURN, device_faults_translated, pick_device
from gary.engine.hub import use_hub
from gary.engine.job import Job
from gary.engine.memory import whole_bytes
from gary.engine.request import (
    AudioStretch,
    Began,
    CodeArray,
    CodePrompt,
    GenerationEvent,
    GenerationParams,
    GenerationRequest,
    ModelCard,
    Progress,
    TakeCodes,
)
from gary.errors import Aborted, DeviceError, GaryError, InvalidInput, ServerError

if TYPE_CHECKING:
    from audiocraft.models.musicgen import MusicGen

Report = Callable[[Progress], None]


@dataclass(frozen=True, eq=False)
class _Prompt:
    """What audiocraft is given of a prompt: a wave [C, N] float32, or codes [1, K, T] int64; nothing for none."""

    frames: int = 0
    samples: int = 0
    wave: torch.Tensor | None = None
    codes: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Answer:
    """Samples [C, N] and codes [K, T]."""

    samples: Samples
    codes: CodeArray


class ReferenceEngine:
    """Fulfils `gary.engine.request.Engine` with a loaded model, which from now on belongs to the engine's thread."""

    def __init__(self, model: MusicGen) -> None:
        self._model: MusicGen | None = model
        self._limits = _limits(model)
        self._card = _card(model, self._limits)
        self._held_bytes = whole_bytes(model)
        self._jobs: dict[str, Job] = {}
        self._fault: str | None = None
        self._decoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")

    @classmethod
    def start(cls, checkpoint: str, config: EngineConfig) -> ReferenceEngine:
        """Loads a checkpoint and makes a first short answer with it; blocking.

        Raises:
            CheckpointError: the checkpoint cannot be loaded.
            DeviceError: the device is missing, failed or has no room.
        """
        use_hub(config.hub_cache_dir, config.hub_offline)
        torch.set_num_threads(config.threads)
        engine = cls(load(checkpoint, pick_device(config)))
        try:
            engine.warm_up()
        except GaryError:
            engine.close()
            raise
        return engine

    @property
    def sample_rate_hz(self) -> int:
        return self._limits.sample_rate_hz

    @property
    def channels(self) -> int:
        return self._limits.channels

    @property
    def card(self) -> ModelCard:
        return self._card

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    def warm_up(self) -> None:
        """Makes a fifth of a second from a description and half as long a prompt; blocking, not for an event loop.

        Raises:
            ServerError: the model does not run; DeviceError where the device is to blame.
        """
        prompt = Clip(np.zeros((1, self.sample_rate_hz // 10), np.float32), self.sample_rate_hz)
        request = GenerationRequest(id="warm-up", duration_s=0.2, seed=0, description="drums")
        self._decoder.submit(self._decode, request, prompt, Future(), lambda _: None).result()

    async def generate(
        self, request: GenerationRequest, prompt: Clip | CodePrompt | None
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Runs a request when its turn comes; see `Engine.generate`. Takes come one after the other, each as one
        stretch, once all are made.

        Raises:
            InvalidInput: the request or its prompt is out of range, or a request of this id is under way.
            Aborted: `abort` or `close` was called.
            DeviceError: the device failed; the engine is unhealthy from now on.
            ServerError: the model failed at this request; others are not affected.
        """
        self.check_health()
        check_request(request, prompt, self._limits, self._card)
        job = self._admit(request.id)
        began: Future[Began] = Future()
        decoded = self._decoder.submit(self._decode, request, prompt, began, job.report)
        decoded.add_done_callback(lambda _: job.ring())
        try:
            running, told = True, False
            while running:
                await job.rung()
                running = not decoded.done()  # before the progress is taken, so that none is missed
                if not told and began.done():
                    told = True
                    yield began.result()
                if told and (progress := job.take_progress()) is not None:
                    yield progress
            for take, answer in enumerate(decoded.result()):
                yield AudioStretch(0, Clip(answer.samples, self.sample_rate_hz), take)
                yield TakeCodes(take, answer.codes)
        finally:
            del self._jobs[request.id]
            job.abort()
            decoded.cancel()

    def abort(self, request_id: str) -> bool:
        """Gives a request up, waiting or running; False where none has this id. From any thread."""
        job = self._jobs.get(request_id)
        if job is None:
            return False
        job.abort()
        return True

    def check_health(self) -> None:
        """Raises DeviceError when the device has failed: it stays so for the engine's life."""
        if self._fault is not None:
            raise DeviceError(self._fault)

    def close(self) -> None:
        """Aborts all requests, waits for the decode thread's current step, and frees the model."""
        for job in list(self._jobs.values()):
            job.abort()
        self._decoder.shutdown(wait=True, cancel_futures=True)
        self._model = None

    def _admit(self, request_id: str) -> Job:
        if self._model is None:
            raise Aborted("the engine is closed")
        if request_id in self._jobs:
            raise InvalidInput(f"a request {request_id} is already under way")
        job = self._jobs[request_id] = Job(request_id)
        return job

    # ---- in the decode thread ----

    def _decode(
        self, request: GenerationRequest, prompt: Clip | CodePrompt | None, began: Future[Began], report: Report
    ) -> list[_Answer]:
        """Makes all takes; whatever goes wrong leaves here as one of our errors."""
        try:
            with TORCH_TURN, device_faults_translated():
                taken = self._taken(request, prompt)
                began.set_result(Began(self._card, taken.samples, self._limits.samples(request.duration_s)))
                return [self._run(request, take, taken, report) for take in range(request.takes)]
        except DeviceError as error:
            self._fault = error.message
            raise
        except GaryError:
            raise
        except Exception as error:
            raise ServerError(f"the model failed at the request {request.id}: {error}") from error

    def _taken(self, request: GenerationRequest, prompt: Clip | CodePrompt | None) -> _Prompt:
        limits = self._limits
        match prompt:
            case None:
                return _Prompt()
            case CodePrompt(codes=codes):
                frames, batch = codes.shape[1], torch.from_numpy(codes.astype(np.int64))[None]  # [1, K, T]
                return _Prompt(frames, frames * limits.frame_samples, codes=batch)
            case Clip():
                wave = _at_rate(prompt, limits.sample_rate_hz)  # [C, N]
                frames = limits.frames(wave.shape[1])
                check_prompt_frames(frames, limits.frames(limits.samples(request.duration_s)), limits)
                return _Prompt(frames, wave.shape[1], wave=wave)

    def _run(self, request: GenerationRequest, take: int, prompt: _Prompt, report: Report) -> _Answer:
        model = self._model
        assert model is not None, "the decode thread ends before the model is freed"
        limits = self._limits
        length_samples = limits.samples(request.duration_s)
        answer_frames = limits.frames(length_samples)

        made, total = take * (answer_frames - prompt.frames), request.takes * (answer_frames - prompt.frames)
        model.set_custom_progress_callback(
            _FrameMeter(
                prompt.frames,
                answer_frames,
                limits.window_frames,
                lambda progress: report(Progress(made + progress.frames_done, total)),
            )
        )
        _set_params(model, request.params, answer_frames, limits)
        torch.manual_seed(request.seed + take)
        audio, codes = _generated(model, request.description, prompt)  # [B, C, N], [B, K, T]
        samples = audio[0, :, :length_samples].float().cpu().numpy().copy()  # [C, N]
        assert samples.shape == (limits.channels, length_samples), f"{samples.shape}: the codec lost samples"
        return _Answer(samples, codes[0].cpu().numpy().astype(np.int16))


def _generated(model: MusicGen, description: str | None, prompt: _Prompt) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, C, N], [B, K, T]"""
    descriptions: list[Any] = [description or None]  # audiocraft takes None, its annotation does not
    if prompt.codes is not None:  # what its `generate_continuation` does once it has encoded a prompt
        attributes, _ = model._prepare_tokens_and_attributes(descriptions, None)  # noqa: SLF001
        tokens = model._generate_tokens(attributes, prompt.codes.to(model.device), progress=True)  # noqa: SLF001
        return model.generate_audio(tokens), tokens
    if prompt.wave is not None:
        rate_hz = model.sample_rate
        made = model.generate_continuation(prompt.wave, rate_hz, descriptions, progress=True, return_tokens=True)
    else:
        made = model.generate(descriptions, progress=True, return_tokens=True)
    return cast("tuple[torch.Tensor, torch.Tensor]", made)


class _FrameMeter:
    """audiocraft's progress callback, in finished frames.

    It counts steps, and from anew in each window; a window has a few steps more than frames, as the last codebook of a
    frame comes that much later than the first (the codebooks' pattern decides).
    """

    def __init__(self, prompt_frames: int, answer_frames: int, window_frames: int, report: Report) -> None:
        self._total = answer_frames - prompt_frames
        self._first_window = min(answer_frames, window_frames) - prompt_frames
        self._report = report
        self._lag_steps: int | None = None
        self._before = 0  # frames made in earlier windows
        self._step = 0  # in this window
        report(Progress(0, self._total))

    def __call__(self, _: int, window_steps: int) -> None:
        if self._lag_steps is None:
            self._lag_steps = window_steps - self._first_window
        self._step += 1
        done = self._before + max(0, self._step - self._lag_steps)
        if self._step == window_steps:
            self._before, self._step = done, 0
        self._report(Progress(done, self._total))


def _limits(model: MusicGen) -> ModelLimits:
    frame_rate_hz = model.frame_rate
    return ModelLimits(
        sample_rate_hz=model.sample_rate,
        channels=model.audio_channels,
        frame_samples=round(model.sample_rate / frame_rate_hz),
        window_frames=int(model.max_duration * frame_rate_hz),
        codebooks=model.lm.num_codebooks,
        codebook_size=model.lm.card,
    )


def _card(model: MusicGen, limits: ModelLimits) -> ModelCard:
    device = torch.device(model.device).type
    dtype = next(model.lm.parameters()).dtype
    return ModelCard(
        checkpoint_sha256=checkpoint_sha256(model.lm),
        codec_sha256=Codec.of(model.compression_model, device).sha256,
        engine_version=f"audiocraft {version('audiocraft')}, torch {torch.__version__}",
        precision="fp16" if dtype == torch.float16 else "fp32",
        device=device,
        sample_rate_hz=limits.sample_rate_hz,
        channels=limits.channels,
        frame_samples=limits.frame_samples,
    )


def _set_params(model: MusicGen, params: GenerationParams, answer_frames: int, limits: ModelLimits) -> None:
    """Hands the parameters to the model, which keeps them: only one request runs at a time."""
    beyond = answer_frames > limits.window_frames
    # audiocraft cuts duration * frame_rate down to whole frames: the half keeps a quotient from losing one.
    duration_s = (answer_frames + 0.5) / model.frame_rate
    model.set_generation_params(
        use_sampling=params.use_sampling,
        top_k=params.top_k,
        top_p=params.top_p,
        temperature=params.temperature,
        cfg_coef=params.cfg_coef,
        duration=duration_s if beyond else min(duration_s, model.max_duration),
        extend_stride=params.extend_stride_s if beyond else model.max_duration / 2,  # checked even where unused
    )


def _at_rate(prompt: Clip, rate_hz: int) -> torch.Tensor:
    """A prompt's samples at the model's rate, [C, N], in memory of their own: a clip's array may be read-only.

    Not left to audiocraft: its resampler's kernel grows with the product of the two rates (5 GB for 44.1 kHz less one).
    """
    samples = prompt.samples  # [C, N]
    if prompt.rate_hz != rate_hz:
        samples = soxr.resample(samples.T, prompt.rate_hz, rate_hz).T
    return torch.from_numpy(np.array(samples, dtype=np.float32, order="C"))
