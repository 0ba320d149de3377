"""The batching engine: many requests in one decode loop, each as if alone; asyncio outside, two threads within.

The decode thread owns the model and does nothing but steps. The codec thread does what surrounds them, for one request
at a time: prompts and descriptions in, audio out, while the steps go on. The event loop hears of both and never waits
for either.

    event loop ──request──► codec thread ──codes──► decode thread ──frames──► codec thread ──samples──► event loop
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch

from gary.audio.clip import Clip, Samples
from gary.audio.crop import with_channels
from gary.config import EngineConfig
from gary.engine.admission import ModelLimits, check_prompt_frames, check_request
from gary.engine.checkpoint import load
from gary.engine.codec import Codec, StreamingDecoder
from gary.engine.conditioning import TextConditioner
from gary.engine.core import Drawn, EngineCore, TokenRequest
from gary.engine.device import device_faults_translated, pick_device, settle_arithmetic
from gary.engine.graphs import graphed_steps
from gary.engine.hub import use_hub
from gary.engine.linear import Precision, default_precision
from gary.engine.model import Decoder, cache_dtype
from gary.engine.patterns import DelayPattern, delays_of
from gary.engine.request import AudioStretch, GenerationEvent, GenerationRequest, Progress
from gary.engine.runner import Runner
from gary.engine.scheduler import Scheduler
from gary.engine.weights import DecoderWeights, take_weights
from gary.errors import Aborted, DeviceError, GaryError, InvalidInput, ServerError

if TYPE_CHECKING:
    from audiocraft.models.musicgen import MusicGen

_FIRST_AUDIO_S = 1.0  # of frames before the first stretch is decoded, and between one and the next
_REPORTS = 100  # progress is told about so often in one request


@dataclass(frozen=True)
class Parts:
    """What an engine is made of once its checkpoint is loaded."""

    core: EngineCore
    codec: Codec
    decoder: Decoder
    text: TextConditioner
    limits: ModelLimits


@dataclass(eq=False)
class _Ticket:
    """One request on its way through both threads; `events` belongs to the event loop."""

    key: int
    request: GenerationRequest
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[GenerationEvent | GaryError | None] = field(default_factory=asyncio.Queue)
    aborted: bool = False
    answer_frames: int = 0
    prompt_frames: int = 0
    told_frames: int = 0  # progress
    sent_frames: int = 0  # to the codec thread
    emitted_samples: int = 0
    stream: StreamingDecoder | None = None

    def tell(self, event: GenerationEvent | GaryError | None) -> None:
        """From any thread; None ends the request."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)


class BatchingEngine:
    """Fulfils `gary.engine.request.Engine`; make one with `start`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._keys = itertools.count()
        self._tickets: dict[str, _Ticket] = {}
        self._by_key: dict[int, _Ticket] = {}  # the decode thread's own
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._fault: str | None = None
        self._closed = False
        self._codec_thread = ThreadPoolExecutor(1, "codec", initializer=torch.set_num_threads, initargs=(1,))
        self._decode_thread = threading.Thread(target=self._decode_loop, name="decode", daemon=True)
        self._decode_thread.start()

    @classmethod
    def start(cls, checkpoint: str, config: EngineConfig) -> BatchingEngine:
        """Loads a checkpoint, takes its weights and makes a first short answer; blocking.

        Raises:
            CheckpointError: the checkpoint cannot be loaded, or is not MusicGen's.
            DeviceError: the device is missing, failed or has no room.
        """
        use_hub(config.hub_cache_dir, config.hub_offline)
        torch.set_num_threads(config.threads)
        device = pick_device(config)
        with device_faults_translated():
            engine = cls(make_parts(load(checkpoint, device), device, config))
        try:
            asyncio.run(engine.warm_up())
        except GaryError:
            engine.close()
            raise
        return engine

    @property
    def sample_rate_hz(self) -> int:
        return self._parts.limits.sample_rate_hz

    @property
    def channels(self) -> int:
        return self._parts.limits.channels

    async def warm_up(self) -> None:
        """A real pass through everything: a description, a prompt, a fifth of a second."""
        prompt = Clip(np.zeros((1, self.sample_rate_hz // 10), np.float32), self.sample_rate_hz)
        request = GenerationRequest(id="warm-up", duration_s=0.2, seed=0, description="drums")
        async for _ in self.generate(request, prompt):
            pass

    async def generate(self, request: GenerationRequest, prompt: Clip | None) -> AsyncGenerator[GenerationEvent, None]:
        """Runs a request beside all others; see `Engine.generate`. Audio comes about every second of music."""
        self.check_health()
        check_request(request, prompt, self._parts.limits)
        ticket = self._admit(request)
        self._codec_thread.submit(self._guarded, ticket, partial(self._prepare, ticket, prompt))
        try:
            while (event := await ticket.events.get()) is not None:
                if isinstance(event, GaryError):
                    raise event
                yield event
        finally:
            ticket.aborted = True
            self._tickets.pop(request.id, None)
            self._inbox.put(partial(self._drop, ticket))

    def abort(self, request_id: str) -> bool:
        """Gives a request up, waiting or running; its slot is free before the next step. From any thread."""
        ticket = self._tickets.get(request_id)
        if ticket is None:
            return False
        ticket.aborted = True
        ticket.tell(Aborted(f"the request {request_id} was given up"))
        self._inbox.put(partial(self._drop, ticket))
        return True

    def check_health(self) -> None:
        """Raises DeviceError when the device has failed: it stays so for the engine's life."""
        if self._fault is not None:
            raise DeviceError(self._fault)

    def close(self) -> None:
        """Aborts all requests and ends both threads."""
        self._closed = True
        for request_id in list(self._tickets):
            self.abort(request_id)
        self._inbox.put(None)
        self._decode_thread.join()
        self._codec_thread.shutdown(wait=True, cancel_futures=True)

    def _admit(self, request: GenerationRequest) -> _Ticket:
        if self._closed:
            raise Aborted("the engine is closed")
        if request.id in self._tickets:
            raise InvalidInput(f"a request {request.id} is already under way")
        ticket = self._tickets[request.id] = _Ticket(next(self._keys), request, asyncio.get_running_loop())
        return ticket

    # ---- in the codec thread ----

    def _prepare(self, ticket: _Ticket, prompt: Clip | None) -> None:
        """Prompt and description become codes and keys; then it is the decode thread's turn."""
        parts, request = self._parts, ticket.request
        length_samples = parts.limits.samples(request.duration_s)
        ticket.answer_frames = parts.limits.frames(length_samples)
        codes = torch.empty(parts.codec.codebooks, 0, dtype=torch.int64)
        if prompt is not None:
            wave = _at_rate(prompt, self.sample_rate_hz, self.channels)  # [C, N]
            check_prompt_frames(parts.limits.frames(wave.shape[-1]), ticket.answer_frames, parts.limits)
            codes = parts.codec.encode(wave).cpu()
        ticket.prompt_frames = ticket.told_frames = codes.shape[-1]
        with torch.no_grad():
            text = parts.text.encode(request.description) if request.description else None
            cross = parts.decoder.cross_cache(text) if text is not None else None
        ticket.stream = parts.codec.streaming_decoder()
        ticket.tell(Progress(0, ticket.answer_frames - ticket.prompt_frames))
        wanted = TokenRequest(
            key=ticket.key,
            prompt=codes,
            frames=ticket.answer_frames,
            cross=cross,
            params=request.params,
            seed=request.seed,
            stride_frames=int(request.params.extend_stride_s * parts.codec.frame_rate_hz),
        )
        self._inbox.put(partial(self._enter, ticket, wanted))

    def _render(self, ticket: _Ticket, codes: torch.Tensor, last: bool) -> None:
        """Decodes the next frames and sends what is certain."""
        assert ticket.stream is not None
        pieces = [ticket.stream.push(codes)]
        if last:
            pieces.append(ticket.stream.finish())
        samples = np.concatenate(pieces, axis=-1)  # [C, N]
        left = self._parts.limits.samples(ticket.request.duration_s) - ticket.emitted_samples
        samples = samples[:, :left].copy()
        if samples.shape[1]:
            ticket.tell(AudioStretch(ticket.emitted_samples, Clip(samples, self.sample_rate_hz)))
            ticket.emitted_samples += samples.shape[1]
        if last:
            assert ticket.emitted_samples == self._parts.limits.samples(ticket.request.duration_s), "samples were lost"
            ticket.tell(None)

    def _guarded(self, ticket: _Ticket, work: Callable[[], None]) -> None:
        """Runs a piece of one request's work: what goes wrong there ends this request and no other."""
        if ticket.aborted:
            return
        try:
            with device_faults_translated():
                work()
        except DeviceError as error:
            self._fail_all(error)
        except GaryError as error:
            self._give_up(ticket, error)
        except Exception as error:  # noqa: BLE001  the thread must outlive it
            self._give_up(ticket, _our_fault(ticket, error))

    def _give_up(self, ticket: _Ticket, error: GaryError) -> None:
        ticket.aborted = True
        ticket.tell(error)
        self._inbox.put(partial(self._drop, ticket))

    # ---- in the decode thread ----

    def _decode_loop(self) -> None:
        """Takes what came in, makes a step, passes on what it made; sleeps on the inbox when there is nothing to do."""
        while True:
            try:
                while (message := self._inbox.get(block=not self._parts.core.busy)) is not None:
                    message()
                return
            except queue.Empty:
                pass
            self._step()

    def _step(self) -> None:
        try:
            with device_faults_translated():
                made = self._parts.core.step()
        except DeviceError as error:
            self._fail_all(error)
        except Exception as error:  # noqa: BLE001  a bug of ours: nobody knows whose state is whole
            self._fail_all(DeviceError(f"a decode step failed: {error}"))
        else:
            for each in made:
                ticket = self._by_key[each.key]
                if each.error is not None:
                    self._give_up(ticket, _our_fault(ticket, each.error))
                else:
                    self._guarded(ticket, partial(self._pass_on, ticket, each))

    def _enter(self, ticket: _Ticket, wanted: TokenRequest) -> None:
        if ticket.aborted:
            return

        def enter() -> None:
            self._parts.core.add(wanted)
            self._by_key[ticket.key] = ticket

        self._guarded(ticket, enter)

    def _drop(self, ticket: _Ticket) -> None:
        if self._by_key.pop(ticket.key, None) is not None:
            self._parts.core.abort(ticket.key)

    def _pass_on(self, ticket: _Ticket, drawn: Drawn) -> None:
        """Progress now and then, and frames to the codec thread about every second of music."""
        total = ticket.answer_frames - ticket.prompt_frames
        due = (drawn.frames - ticket.told_frames) * _REPORTS >= total
        if drawn.frames > ticket.told_frames and (due or drawn.finished):
            ticket.told_frames = drawn.frames
            ticket.tell(Progress(drawn.frames - ticket.prompt_frames, total))
        chunk_frames = _FIRST_AUDIO_S * self._parts.codec.frame_rate_hz
        if drawn.finished or drawn.frames - ticket.sent_frames >= chunk_frames:
            codes = self._parts.core.codes(drawn.key, ticket.sent_frames, drawn.frames)
            ticket.sent_frames = drawn.frames
            self._codec_thread.submit(self._guarded, ticket, partial(self._render, ticket, codes, drawn.finished))
        if drawn.finished:
            self._parts.core.forget(drawn.key)
            del self._by_key[drawn.key]

    def _fail_all(self, error: DeviceError) -> None:
        """The device is gone: everybody hears of it, and the replica reports unhealthy."""
        self._fault = error.message
        for ticket in list(self._tickets.values()):
            ticket.aborted = True
            ticket.tell(DeviceError(error.message))
            self._inbox.put(partial(self._drop, ticket))


def _our_fault(ticket: _Ticket, error: Exception) -> ServerError:
    return ServerError(f"the model failed at the request {ticket.request.id}: {error}")


def make_parts(model: MusicGen, device: str, config: EngineConfig) -> Parts:
    """Takes a loaded MusicGen apart; of audiocraft's own language model only the text conditioner stays."""
    if device == "cuda":
        settle_arithmetic()
    lm = model.lm
    precision: Precision = default_precision(device) if config.precision == "auto" else config.precision
    pattern = DelayPattern(delays_of(lm.pattern_provider))
    codec = Codec.of(model.compression_model, device)
    window_frames = int(model.max_duration * model.frame_rate)
    window = pattern.positions(window_frames)
    weights = take_weights(lm, precision)
    text = TextConditioner(lm.condition_provider)
    model.lm = None  # type: ignore[assignment]  # its tensors are ours now, cast or packed
    rows = _rows(weights, window, device, config)
    decoder = Decoder(weights, rows, window, device)
    slots = min(rows, config.slots)
    steps = graphed_steps(decoder, slots) if device == "cuda" and config.cuda_graphs else None
    core = EngineCore(
        Runner(decoder, slots, window, device, steps),
        Scheduler(slots, rows, window, config.prefill_chunk),
        pattern,
        window_frames,
        weights.shape.card,
    )
    limits = ModelLimits(
        sample_rate_hz=codec.sample_rate_hz,
        channels=codec.channels,
        frame_samples=codec.frame_samples,
        window_frames=window_frames,
        codebook_size=codec.codebook_size,
    )
    return Parts(core, codec, decoder, text, limits)


def _rows(weights: DecoderWeights, window: int, device: str, config: EngineConfig) -> int:
    """Rows of the cache that its memory holds: two for each slot at most, since guidance takes two.

    Raises:
        DeviceError: not even one guided request fits.
    """
    shape = weights.shape
    row_bytes = 2 * shape.layers * window * shape.width * cache_dtype(weights, device).itemsize  # keys and values
    rows = min(2 * config.slots, config.cache_bytes // row_bytes)
    if rows < 2:
        raise DeviceError(f"cache_bytes is {config.cache_bytes}; one guided request takes {2 * row_bytes}")
    return rows


def _at_rate(prompt: Clip, rate_hz: int, channels: int) -> Samples:
    """A prompt's samples at the codec's rate and channels, [C, N], in memory of their own."""
    samples = prompt.samples
    if prompt.rate_hz != rate_hz:
        samples = soxr.resample(samples.T, prompt.rate_hz, rate_hz).T
    resampled = Clip(np.array(samples, dtype=np.float32, order="C"), rate_hz)
    return with_channels(resampled, channels).samples
