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
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch

from gary.audio.clip import Clip, Samples
from gary.audio.crop import with_channels
from gary.config import EngineConfig
from gary.engine import attention
from gary.engine.admission import check_prompt_frames, check_request
from gary.engine.checkpoint import load
from gary.engine.core import Drawn, TokenRequest
from gary.engine.device import device_faults_translated, pick_device
from gary.engine.gently import gently
from gary.engine.heap import give_back_freed
from gary.engine.hub import use_hub
from gary.engine.parts import Parts, make_parts
from gary.engine.request import (
    AudioStretch,
    Began,
    CodePrompt,
    GenerationEvent,
    GenerationRequest,
    ModelCard,
    Progress,
    TakeCodes,
)
from gary.engine.stats import EngineStats, Tally
from gary.engine.threads import compute_with
from gary.engine.ticket import Take, Ticket
from gary.errors import Aborted, DeviceError, GaryError, InvalidInput, ServerError

if TYPE_CHECKING:
    pass

_FIRST_AUDIO_S = 1.0  # of frames before the first stretch is decoded, and between one and the next


class BatchingEngine:
    """Fulfils `gary.engine.request.Engine`; make one with `start`.

    Args:
        threads: of torch's, for its steps on a CPU.
    """

    def __init__(self, parts: Parts, threads: int) -> None:
        self._parts = parts
        self._threads = threads
        self._keys = itertools.count()
        self._tickets: dict[str, Ticket] = {}
        self._by_key: dict[int, Take] = {}  # the decode thread's own
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tally = Tally()
        self._fault: str | None = None
        self._closed = False
        self._codec_thread = ThreadPoolExecutor(1, "codec", initializer=compute_with, initargs=(1,))
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
        device = pick_device(config)
        with device_faults_translated():
            parts = gently(lambda: make_parts(load(checkpoint, device), device, config))
        give_back_freed()
        compute_with(1)  # with a team of its own, this thread would put the decode thread's to sleep
        engine = cls(parts, config.threads)
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

    @property
    def card(self) -> ModelCard:
        return self._parts.card

    @property
    def held_bytes(self) -> int:
        return self._parts.held_bytes

    async def warm_up(self) -> None:
        """A real pass through everything: a description, a prompt, a fifth of a second."""
        prompt = Clip(np.zeros((1, self.sample_rate_hz // 10), np.float32), self.sample_rate_hz)
        request = GenerationRequest(id="warm-up", duration_s=0.2, seed=0, description="drums")
        async for _ in self.generate(request, prompt):
            pass

    async def generate(
        self, request: GenerationRequest, prompt: Clip | CodePrompt | None
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Runs a request beside all others; see `Engine.generate`. Audio comes about every second of music.

        Each take waits for a slot of its own; those that there are slots for run side by side.
        """
        self.check_health()
        check_request(request, prompt, self._parts.limits, self.card)
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

    def stats(self) -> EngineStats:
        """What it has done and how full it is; from any thread."""
        tally = self._tally
        return EngineStats(
            steps_by_time=tuple(tally.steps_by_time),
            step_s=tally.step_s,
            slot_steps=tally.slot_steps,
            frames=tally.frames,
            frame_s=self.card.frame_samples / self.card.sample_rate_hz,
            occupancy=self._parts.core.occupancy,
            row_bytes=self._parts.decoder.row_bytes,
        )

    def close(self) -> None:
        """Aborts all requests and ends both threads."""
        self._closed = True
        for request_id in list(self._tickets):
            self.abort(request_id)
        self._inbox.put(None)
        self._decode_thread.join()
        self._codec_thread.shutdown(wait=True, cancel_futures=True)

    def _admit(self, request: GenerationRequest) -> Ticket:
        if self._closed:
            raise Aborted("the engine is closed")
        if request.id in self._tickets:
            raise InvalidInput(f"a request {request.id} is already under way")
        ticket = self._tickets[request.id] = Ticket.of(request, itertools.islice(self._keys, request.takes))
        return ticket

    # ---- in the codec thread ----

    def _prepare(self, ticket: Ticket, prompt: Clip | CodePrompt | None) -> None:
        """Prompt and description become codes and keys, once for all takes; then it is the decode thread's turn."""
        parts, request = self._parts, ticket.request
        ticket.length_samples = parts.limits.samples(request.duration_s)
        ticket.answer_frames = parts.limits.frames(ticket.length_samples)
        codes = self._begin(ticket, prompt)  # [K, T]
        ticket.prompt_frames = codes.shape[1]
        ticket.tell(Progress(0, ticket.total_frames))
        with torch.no_grad():
            text = parts.text.encode(request.description) if request.description else None
            cross = parts.decoder.cross_cache(text) if text is not None else None
        wanted = [
            TokenRequest(
                key=take.key,
                prompt=codes,
                frames=ticket.answer_frames,
                cross=cross,
                params=request.params,
                seed=request.seed + take.index,
                stride_frames=int(request.params.extend_stride_s * parts.codec.frame_rate_hz),
                family=ticket.family,
            )
            for take in ticket.takes
        ]
        self._inbox.put(partial(self._enter, ticket, wanted))

    def _begin(self, ticket: Ticket, prompt: Clip | CodePrompt | None) -> torch.Tensor:
        """Says what is being made; the prompt's codes, [K, T] int64, T = 0 for none."""
        parts = self._parts

        def told(prompt_samples: int) -> None:
            ticket.tell(Began(parts.card, prompt_samples, ticket.length_samples))

        match prompt:
            case None:
                told(0)
                return torch.empty(parts.codec.codebooks, 0, dtype=torch.int64)
            case CodePrompt(codes=codes):
                told(codes.shape[1] * parts.limits.frame_samples)
                return torch.from_numpy(codes.astype(np.int64))
            case Clip():
                wave = _at_rate(prompt, self.sample_rate_hz, self.channels)  # [C, N]
                check_prompt_frames(parts.limits.frames(wave.shape[1]), ticket.answer_frames, parts.limits)
                told(wave.shape[1])
                return parts.codec.encode(wave).cpu()

    def _render(self, take: Take, codes: torch.Tensor, answer: torch.Tensor | None) -> None:
        """Decodes a take's next frames and sends what is certain.

        Args:
            codes: [K, T] of these frames.
            answer: [K, T] of all frames, with the last ones: then the take ends, and with the last take the request.
        """
        ticket = take.ticket
        if take.stream is None:
            take.stream = self._parts.codec.streaming_decoder()
        pieces = [take.stream.push(codes)]
        if answer is not None:
            pieces.append(take.stream.finish())
        samples = np.concatenate(pieces, axis=-1)  # [C, N]
        samples = samples[:, : ticket.length_samples - take.emitted_samples].copy()  # the last frame may reach beyond
        if samples.shape[1]:
            ticket.tell(AudioStretch(take.emitted_samples, Clip(samples, self.sample_rate_hz), take.index))
            take.emitted_samples += samples.shape[1]
        if answer is not None:
            assert take.emitted_samples == ticket.length_samples, "samples were lost"
            ticket.tell(TakeCodes(take.index, answer.numpy().astype(np.int16)))
            ticket.ended_takes += 1
            if ticket.ended_takes == len(ticket.takes):
                ticket.tell(None)

    def _guarded(self, ticket: Ticket, work: Callable[[], None]) -> None:
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

    def _give_up(self, ticket: Ticket, error: GaryError) -> None:
        ticket.aborted = True
        ticket.tell(error)
        self._inbox.put(partial(self._drop, ticket))

    # ---- in the decode thread ----

    def _decode_loop(self) -> None:
        """Takes what came in, makes a step, passes on what it made; sleeps on the inbox when there is nothing to do."""
        if self._parts.card.device == "cpu" and attention.available():
            attention.warm_up()  # starts numba's threads, which sets this thread's number of them to that of all cores
        compute_with(self._threads)
        while True:
            try:
                while (message := self._inbox.get(block=not self._parts.core.busy)) is not None:
                    message()
                return
            except queue.Empty:
                pass
            self._step()

    def _step(self) -> None:
        began_s = perf_counter()
        try:
            with device_faults_translated():
                made = self._parts.core.step()
        except DeviceError as error:
            self._fail_all(error)
        except Exception as error:  # noqa: BLE001  a bug of ours: nobody knows whose state is whole
            self._fail_all(DeviceError(f"a decode step failed: {error}"))
        else:
            self._tally.stepped(perf_counter() - began_s, len(made))
            for each in made:
                take = self._by_key[each.key]
                if each.error is not None:
                    self._give_up(take.ticket, _our_fault(take.ticket, each.error))
                else:
                    self._guarded(take.ticket, partial(self._pass_on, take, each))

    def _enter(self, ticket: Ticket, wanted: list[TokenRequest]) -> None:
        """Queues all takes, one behind the other: nobody comes between them."""

        def enter() -> None:
            for take, each in zip(ticket.takes, wanted, strict=True):
                self._parts.core.add(each)
                self._by_key[take.key] = take

        self._guarded(ticket, enter)

    def _drop(self, ticket: Ticket) -> None:
        for take in ticket.takes:
            if self._by_key.pop(take.key, None) is not None:
                self._parts.core.abort(take.key)

    def _pass_on(self, take: Take, drawn: Drawn) -> None:
        """Progress now and then, and frames to the codec thread about every second of music."""
        made_frames = max(0, drawn.frames - take.ticket.prompt_frames)  # at first not even the prompt is whole
        self._tally.frames += made_frames - take.made_frames
        take.made_frames = made_frames
        take.ticket.tell_progress()
        chunk_frames = _FIRST_AUDIO_S * self._parts.codec.frame_rate_hz
        if drawn.finished or drawn.frames - take.sent_frames >= chunk_frames:
            codes = self._parts.core.codes(drawn.key, take.sent_frames, drawn.frames)  # [K, T]
            answer = self._parts.core.codes(drawn.key, 0, drawn.frames) if drawn.finished else None  # [K, T]
            take.sent_frames = drawn.frames
            self._codec_thread.submit(self._guarded, take.ticket, partial(self._render, take, codes, answer))
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


def _our_fault(ticket: Ticket, error: Exception) -> ServerError:
    return ServerError(f"the model failed at the request {ticket.request.id}: {error}")


def _at_rate(prompt: Clip, rate_hz: int, channels: int) -> Samples:
    """A prompt's samples at the codec's rate and channels, [C, N], in memory of their own."""
    samples = prompt.samples
    if prompt.rate_hz != rate_hz:
        samples = soxr.resample(samples.T, prompt.rate_hz, rate_hz).T
    resampled = Clip(np.array(samples, dtype=np.float32, order="C"), rate_hz)
    return with_channels(resampled, channels).samples
