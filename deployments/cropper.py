"""Decodes, measures, cuts, joins and encodes audio, on a CPU: the shell around gary.audio.

A method takes values, or parcels of what other calls returned, which lie in the object store: whole clips go to
MusicGen without passing through anybody else. Temporary files have no names, so that a replica that is
killed leaves none behind.
"""

import asyncio
import logging
import math
from collections.abc import Sequence

from ray import serve
from ray.serve import Deployment

from deployments import logs, tracing
from deployments.tracing import traced
from gary.audio import crop
from gary.audio.clip import Clip
from gary.audio.files import Format, decode, encode, encode_wav
from gary.audio.limiter import limit
from gary.audio.loudness import normalise
from gary.audio.pcm import Int16, Pcm, read_wav, to_int16
from gary.audio.plan import (
    TEMPO_WINDOW_S,
    LengthWish,
    MusicPlan,
    Plan,
    Side,
    Source,
    decode_side,
    decode_source,
    make_music_plan,
    make_plan,
    take_prompt,
)
from gary.audio.tempo import Tempo, estimate_tempo, warm_up
from gary.config import Limits, TracingConfig

_log = logging.getLogger("ray.serve")


class Cropper:
    """Its arguments may come as parcels; see `traced`."""

    def __init__(self, limits: Limits, tracing_config: TracingConfig | None = None) -> None:
        logs.begin()
        self.tracing = tracing.begin(tracing_config)
        self._limits = limits
        warm_up()

    @traced("decode")
    async def decode_source(self, data: bytes, start_s: float, prompt_s: float) -> Source:
        """A fetched source's window around `start_s`; errors as `gary.audio.plan.decode_source`."""
        return await decode_source(data, start_s, prompt_s, self._limits)

    @traced("plan")
    async def plan(self, source: Source, prompt_s: float, min_s: float, max_s: float) -> Plan:
        """How long prompt and answer are to be, by the source's tempo."""
        plan = await asyncio.to_thread(make_plan, source, prompt_s, min_s, max_s)
        _log.info("planned, at a tempo of %s bpm", plan.tempo_bpm, extra={"length_s": plan.length_s})
        return plan

    @traced("crop")
    async def take_prompt(self, source: Source, plan: Plan | MusicPlan) -> Clip:
        return take_prompt(source, plan)

    @traced("decode")
    async def decode_side(self, data: bytes, side: Side, start_s: float, prompt_s: float) -> Source:
        """The window of a prompt at any side of a file; errors as `gary.audio.plan.decode_side`."""
        return await decode_side(data, side, start_s, prompt_s, self._limits)

    @traced("plan")
    async def plan_music(self, source: Source, prompt_s: float, wish: LengthWish) -> tuple[MusicPlan, str]:
        """How long prompt and new music are to be, and the prompt's hash; errors as `make_music_plan`."""
        plan = await asyncio.to_thread(make_music_plan, source, prompt_s, wish, self._limits.new_music_max_s)
        _log.info("planned, at a tempo of %s bpm", plan.tempo_bpm, extra={"length_s": plan.prompt_s + plan.new_s})
        return plan, await asyncio.to_thread(take_prompt(source, plan).sha256)

    @traced("listen")
    async def hear(self, music: Pcm) -> Tempo | None:
        """The tempo of a piece's end."""
        return await asyncio.to_thread(lambda: estimate_tempo(crop.tail(music.clip(), TEMPO_WINDOW_S)))

    @traced("hold")
    async def hold(self, clip: Clip) -> Clip:
        """The clip as it is: what a call has returned can be handed on as a parcel."""
        return clip

    @traced("fit")
    async def fit(self, music: Pcm, rate_hz: int, channels: int) -> Int16:
        """Samples [N, C] at another rate and channel count; what that lifts beyond full scale is limited."""
        return await asyncio.to_thread(
            lambda: to_int16(limit(crop.fit(music.clip(), rate_hz, channels).samples)),
        )

    @traced("decode")
    async def decode(self, data: bytes) -> Clip:
        """A whole upload; errors as `gary.audio.files.decode`."""
        return await decode(data, self._limits)

    @traced("crop")
    async def tail(self, clip: Clip, length_s: float) -> Clip:
        return crop.tail(clip, length_s)

    @traced("encode")
    async def encode_generated(self, stretches: Sequence[Clip]) -> tuple[bytes, float]:
        """WAV bytes and seconds of what MusicGen made: one gain for all of it, so that its seam stays as it is."""
        return await asyncio.to_thread(lambda: _encoded(normalise(crop.join(stretches))))

    @traced("encode")
    async def encode_continued(self, original: Clip, prompt_s: float, stretches: Sequence[Clip]) -> tuple[bytes, float]:
        """WAV bytes and seconds of `original` without its last `prompt_s` seconds, then what MusicGen made of those."""
        return await asyncio.to_thread(lambda: _encoded(crop.splice(original, prompt_s, crop.join(stretches))))

    async def probe(self, data: bytes) -> float:
        """Seconds of audio in `data`; MediaError where it is none."""
        return (await decode(data, self._limits)).duration_s

    async def convert(self, wav: bytes, form: Format) -> bytes:
        """An answer of ours, a 16-bit WAV, in another format."""
        music = await asyncio.to_thread(read_wav, wav)
        return await encode(music.clip(), form, self._limits)

    async def to_mp3(self, data: bytes) -> bytes:
        """Any audio as an MP3."""
        return await encode(await decode(data, self._limits), "mp3", self._limits)

    async def crop_to(self, data: bytes, start_s: float, end_s: float | None, form: Format) -> bytes:
        """The stretch from `start_s` to `end_s`, or to the end; errors as `gary.audio.crop.crop`."""
        clip = await decode(data, self._limits)
        return await encode(crop.crop(clip, start_s, math.inf if end_s is None else end_s), form, self._limits)

    async def join_to(self, clips: Sequence[bytes], form: Format) -> bytes:
        """The clips one after the other; errors as `gary.audio.crop.join`."""
        decoded = [await decode(data, self._limits) for data in clips]
        joined = await asyncio.to_thread(crop.join, decoded, self._limits.decoded_bytes)
        return await encode(joined, form, self._limits)


def _encoded(clip: Clip) -> tuple[bytes, float]:
    wav = encode_wav(clip)
    _log.info("encoded", extra={"length_s": clip.duration_s, "size_bytes": len(wav)})
    return wav, clip.duration_s


deployment: Deployment = serve.deployment(
    max_ongoing_requests=8,
    ray_actor_options={"num_cpus": 0.5},
    health_check_period_s=2,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=180,
)(Cropper)
