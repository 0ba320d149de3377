"""Decodes, measures, cuts, joins and encodes audio, on a CPU: the shell around gary.audio.

A method takes values, or parcels of what other calls returned, which lie in the object store: whole clips go to
MusicGen without passing through anybody else. Temporary files have no names, so that a replica that is
killed leaves none behind.
"""

import asyncio
import logging
from collections.abc import Sequence

from ray import serve
from ray.serve import Deployment

from deployments import logs
from deployments.handles import Parcel
from gary.audio import crop
from gary.audio.clip import Clip
from gary.audio.files import decode, encode_mp3, encode_wav
from gary.audio.loudness import normalise
from gary.audio.plan import Plan, Source, decode_source, make_plan, take_prompt
from gary.audio.tempo import warm_up
from gary.config import Limits

_log = logging.getLogger("ray.serve")


class Cropper:
    def __init__(self, limits: Limits) -> None:
        logs.begin()
        self._limits = limits
        warm_up()

    async def decode_source(self, data: Parcel[bytes], start_s: float, prompt_s: float) -> Source:
        """A fetched source's window around `start_s`; errors as `gary.audio.plan.decode_source`."""
        return await decode_source(await data.open(), start_s, prompt_s, self._limits)

    async def plan(self, source: Parcel[Source], prompt_s: float, min_s: float, max_s: float) -> Plan:
        """How long prompt and answer are to be, by the source's tempo."""
        plan = await asyncio.to_thread(make_plan, await source.open(), prompt_s, min_s, max_s)
        _log.info("planned, at a tempo of %s bpm", plan.tempo_bpm, extra={"length_s": plan.length_s})
        return plan

    async def take_prompt(self, source: Parcel[Source], plan: Plan) -> Clip:
        return take_prompt(await source.open(), plan)

    async def decode(self, data: bytes) -> Clip:
        """A whole upload; errors as `gary.audio.files.decode`."""
        return await decode(data, self._limits)

    async def tail(self, clip: Parcel[Clip], length_s: float) -> Clip:
        return crop.tail(await clip.open(), length_s)

    async def encode_generated(self, stretches: Sequence[Clip]) -> tuple[bytes, float]:
        """WAV bytes and seconds of what MusicGen made: one gain for all of it, so that its seam stays as it is."""
        return await asyncio.to_thread(lambda: _encoded(normalise(crop.join(stretches))))

    async def encode_continued(
        self, original: Parcel[Clip], prompt_s: float, stretches: Sequence[Clip]
    ) -> tuple[bytes, float]:
        """WAV bytes and seconds of `original` without its last `prompt_s` seconds, then what MusicGen made of those."""
        clip = await original.open()
        return await asyncio.to_thread(lambda: _encoded(crop.splice(clip, prompt_s, crop.join(stretches))))

    async def probe(self, data: bytes) -> float:
        """Seconds of audio in `data`; MediaError where it is none."""
        return (await decode(data, self._limits)).duration_s

    async def crop_to_mp3(self, data: bytes, start_s: float, end_s: float) -> bytes:
        clip = crop.crop(await decode(data, self._limits), start_s, end_s)
        return await encode_mp3(clip, self._limits)

    async def join_to_mp3(self, clips: Sequence[bytes]) -> bytes:
        decoded = [await decode(data, self._limits) for data in clips]
        joined = await asyncio.to_thread(crop.join, decoded, self._limits.decoded_bytes)
        return await encode_mp3(joined, self._limits)

    async def to_mp3(self, data: bytes) -> bytes:
        return await encode_mp3(await decode(data, self._limits), self._limits)


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
