"""Bytes to `Clip` and back.

Decoding and the lossy formats are ffmpeg's work (`gary.audio.ffmpeg`). The demuxer is one of `CONTAINERS`; playlists,
which name other files and hosts, are not among them, and no protocol but `file` and `pipe` may be opened. What is
encoded depends on the samples alone: the same clip gives the same bytes.
"""

from __future__ import annotations

import asyncio
import errno
import io
import math
import os
import struct
from collections.abc import Sequence
from typing import IO, Literal

import numpy as np
import soundfile

from gary.audio import pcm
from gary.audio.clip import Clip
from gary.audio.crop import resample, with_channels
from gary.audio.ffmpeg import content, fill, run_ffmpeg, temporary_file
from gary.config import MIB, Limits
from gary.errors import FatalError, InvalidInput, MediaError, RecoverableError, TooLarge

# The names of ffmpeg's demuxers, in its releases 5 to 9.
CONTAINERS = "wav,w64,aiff,au,caf,voc,flac,ogg,mp3,aac,ac3,eac3,amr,wv,ape,tta,mov,mp4,m4a,3gp,matroska,webm,asf,mpegts"
RATE_MIN_HZ, RATE_MAX_HZ = 8_000, 192_000
CHANNELS_MAX = 8
SAMPLE_MAX = 2.0**16  # float files go beyond 1; what is beyond even this is damage
MP3_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
OPUS_RATE_HZ = 48_000
OPUS_BITS_S = {1: 96_000, 2: 128_000}  # by channels

Format = Literal["wav", "flac", "mp3", "opus"]

_BLOCK_FRAMES = 1 << 18
_SLACK_BYTES = 16 * MIB  # what cutting at whole seconds lets through beside the stretch, and more
_AU_HEADER = struct.Struct(">4s5I")  # magic, offset of the samples, their bytes, encoding, rate, channels
_AU_FLOAT32 = 6
# No version, no date, no random serial number: the bytes depend on the samples alone.
_PLAIN = ("-map_metadata", "-1", "-fflags", "+bitexact", "-flags:a", "+bitexact")


async def decode(data: bytes, limits: Limits, start_s: float = 0.0, length_s: float | None = None) -> Clip:
    """Decodes the first audio stream at its own rate and channel count.

    The stretch is the one that the whole file, decoded, has at samples `round(start_s * rate)` and on, whatever the
    container: nothing is sought, so nothing is off by a packet. A file that breaks off, or ends before
    `start_s + length_s`, gives what there is. NaN, infinite and absurd samples become 0.

    Args:
        data: a whole file of any container among `CONTAINERS`.
        start_s: where the stretch begins.
        length_s: how long it is at most; None: to the end.

    Returns:
        [C, N] with 1 to 8 channels at 8 to 192 kHz, at least `limits.clip_min_s` long.

    Raises:
        MediaError: empty, not_audio, no_audio, too_short, unsupported_rate, unsupported_channels,
            timeout, too_costly.
        InvalidInput: past_end, or a start or length that is no such number.
        TooLarge: too_long, beyond `limits.decoded_bytes` as float32, or a whole file beyond `limits.clip_max_s`.
        ToolMissing: ffmpeg is not installed.
        RecoverableError: disk_full, this machine has no room for temporary files.
    """
    if not math.isfinite(start_s) or start_s < 0:
        raise InvalidInput(f"the start is a number of seconds from 0 on, not {start_s}", "bad_range")
    if length_s is not None and not (math.isfinite(length_s) and length_s > 0):
        raise InvalidInput(f"the length is a number of seconds above 0, not {length_s}", "bad_range")
    if not data:
        raise MediaError("the audio is empty: no bytes", "empty")
    with temporary_file() as source:
        await asyncio.to_thread(fill, source, data)
        clip, complaint = await _decode_file(source, limits, start_s, length_s)
        least_s = limits.clip_min_s if length_s is None else min(limits.clip_min_s, length_s)
        if clip is not None and length_s is None and clip.duration_s > limits.clip_max_s:
            raise TooLarge(f"the audio is longer than {limits.clip_max_s:g} s", "too_long")
        if clip is not None and clip.length_samples >= math.floor(least_s * clip.rate_hz):
            return clip
        if start_s > 0:
            before, complaint = await _decode_file(source, limits, 0.0, limits.clip_min_s)
            if before is not None and before.length_samples > 0:
                raise InvalidInput(f"no audio from {start_s:g} s on: it ends before", "past_end")
    if clip is not None and clip.length_samples > 0:
        raise MediaError(
            f"the audio is {clip.duration_s:.3g} s long; at least {limits.clip_min_s:g} s are needed", "too_short"
        )
    if "matches no streams" in complaint:
        raise MediaError("the file holds no audio stream", "no_audio")
    raise MediaError("the bytes are no audio file that can be decoded", "not_audio")


def encode_wav(clip: Clip) -> bytes:
    """A plain 16-bit PCM WAV file; what came from 16 bits is written back bit for bit. Beyond -1 to 1 it clips."""
    return pcm.wav(pcm.to_int16(clip.samples), clip.rate_hz)


def encode_flac(clip: Clip) -> bytes:
    """A FLAC file of 16 bits where they hold every sample, else of 24: finer samples are rounded to those, and beyond
    -1 to 1 it clips."""
    deep = pcm.bits_needed(clip.samples) > 16
    # soundfile takes 24 bits as the upper ones of 32
    integers = pcm.to_int24(clip.samples) << 8 if deep else pcm.to_int16(clip.samples)
    file = io.BytesIO()
    soundfile.write(file, integers, clip.rate_hz, format="FLAC", subtype="PCM_24" if deep else "PCM_16")
    return file.getvalue()


async def encode_mp3(clip: Clip, limits: Limits | None = None) -> bytes:
    """An MP3 file (LAME, VBR quality 2) that decodes to as many samples, at the same places, as the clip has.

    MP3 has mono and stereo at `MP3_RATES_HZ` only: other clips are mixed down to stereo and resampled to the
    next higher rate, or to 48 kHz. The file is written where ffmpeg can seek, since the header that says how many
    samples the encoder added is written last.

    Args:
        limits: for `ffmpeg_timeout_s`; None: the defaults.

    Raises:
        RecoverableError: timeout, disk_full: the machine was too slow, or has no room for temporary files.
        ToolMissing: ffmpeg is not installed.
        FatalError: ffmpeg cannot write MP3.
    """
    rate_hz = next((rate for rate in MP3_RATES_HZ if rate >= clip.rate_hz), MP3_RATES_HZ[-1])
    playable = await asyncio.to_thread(_fit, clip, rate_hz)
    return await _transcode(playable, "MP3", ["-c:a", "libmp3lame", "-q:a", "2", "-f", "mp3"], limits or Limits())


async def encode_opus(clip: Clip, limits: Limits | None = None) -> bytes:
    """An Opus file (Ogg, 48 kHz, mono or stereo) that decodes to as many samples as the clip has at 48 kHz.

    Arguments and errors as of `encode_mp3`.
    """
    playable = await asyncio.to_thread(_fit, clip, OPUS_RATE_HZ)
    arguments = ["-c:a", "libopus", "-b:a", str(OPUS_BITS_S[playable.channels]), "-f", "opus"]
    return await _transcode(playable, "Opus", arguments, limits or Limits())


async def encode(clip: Clip, form: Format, limits: Limits) -> bytes:
    """A file of that format. WAV has the fewest bits that hold every sample: 16, 24, or 32 as floats.

    Errors as of `encode_mp3`.
    """
    match form:
        case "wav":
            return await asyncio.to_thread(pcm.lossless_wav, clip)
        case "flac":
            return await asyncio.to_thread(encode_flac, clip)
        case "mp3":
            return await encode_mp3(clip, limits)
        case "opus":
            return await encode_opus(clip, limits)


async def _transcode(clip: Clip, name: str, arguments: Sequence[str], limits: Limits) -> bytes:
    """What ffmpeg makes of a clip. Errors as of `encode_mp3`.

    Args:
        name: of the format, for people.
    """
    floats = await asyncio.to_thread(lambda: np.ascontiguousarray(clip.samples.T, dtype="<f4").tobytes())
    size_max = len(floats) + MIB  # nothing lossy is larger than its floats
    reading = ["-f", "f32le", "-ar", str(clip.rate_hz), "-ac", str(clip.channels), "-i", "file:/dev/stdin"]
    command = [*reading, *_PLAIN, *arguments, "file:/dev/stdout"]
    with temporary_file() as source, temporary_file() as target:
        await asyncio.to_thread(fill, source, floats)
        try:
            done = await run_ffmpeg(command, source, target, limits.ffmpeg_timeout_s, size_max)
        except TimeoutError as error:
            raise RecoverableError(f"writing {name} took over {limits.ffmpeg_timeout_s:g} s", "timeout") from error
        if done.status != 0 and os.strerror(errno.ENOSPC) in done.complaint:
            raise RecoverableError("this machine has no room for temporary files", "disk_full")
        if done.status != 0:
            raise FatalError(f"ffmpeg could not write {name} (status {done.status})", "encode_failed")
        return await asyncio.to_thread(content, target)


def _fit(clip: Clip, rate_hz: int) -> Clip:
    """The clip in mono or stereo at another rate, within -1 to 1."""
    fitted = resample(with_channels(clip, min(clip.channels, 2)), rate_hz)
    return Clip(np.clip(fitted.samples, -1.0, 1.0), rate_hz)


async def _decode_file(
    source: IO[bytes], limits: Limits, start_s: float, length_s: float | None
) -> tuple[Clip | None, str]:
    """One run of ffmpeg over the file: the stretch, or None where nothing came out; and what ffmpeg said.

    ffmpeg cuts at whole seconds, which are whole samples at any rate; the rest is cut from the samples.
    """
    first_s = math.floor(start_s)
    # Samples are counted, not dated: time stamps may be rounded, jump, or begin late.
    trim = f"asetpts=N/SR/TB,atrim=start={first_s}"
    # of a whole file, a second more than is taken: enough to see that it is too long
    trim += f":end={math.ceil(start_s + (limits.clip_max_s if length_s is None else length_s)) + 1}"
    arguments = ["-protocol_whitelist", "file,pipe", "-format_whitelist", CONTAINERS, "-i", "file:/dev/stdin"]
    arguments += ["-map", "0:a:0", "-vn", "-sn", "-dn", "-map_metadata", "-1", "-af", trim]
    arguments += ["-fs", str(limits.decoded_bytes + 2 * _SLACK_BYTES), "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    try:
        done = await run_ffmpeg(arguments, source, None, limits.ffmpeg_timeout_s, limits.decoded_bytes + _SLACK_BYTES)
    except TimeoutError as error:
        raise MediaError(f"decoding took over {limits.ffmpeg_timeout_s:g} s", "timeout") from error
    if not done.overflowed and done.status < 0:  # by a signal: a limit of the process was reached
        raise MediaError("decoding needs more memory or time than one file may use", "too_costly")
    clip = None if done.overflowed else await asyncio.to_thread(_read_au, done.output)
    stretch = clip and _cut(clip, start_s, first_s, length_s)
    if done.overflowed or (stretch is not None and stretch.samples.nbytes > limits.decoded_bytes):
        raise TooLarge(f"the audio is longer than {limits.decoded_bytes / MIB:g} MiB of samples", "too_long")
    return stretch, done.complaint


def _cut(clip: Clip, start_s: float, first_s: int, length_s: float | None) -> Clip:
    """The stretch from `start_s` on of a clip that begins at `first_s`; it may be empty."""
    start = round(start_s * clip.rate_hz) - first_s * clip.rate_hz
    end = None if length_s is None else start + round(length_s * clip.rate_hz)
    if start == 0 and (end is None or end >= clip.length_samples):
        return clip
    return Clip(clip.samples[:, start:end].copy(), clip.rate_hz)


def _read_au(data: bytearray) -> Clip | None:
    """Parses the AU file (Sun/NeXT audio) that ffmpeg wrote; None where it wrote not even a header."""
    if len(data) < _AU_HEADER.size:
        return None
    magic, offset, _, encoding, rate_hz, channels = _AU_HEADER.unpack_from(data)
    assert magic == b".snd", magic
    assert encoding == _AU_FLOAT32, encoding
    if not RATE_MIN_HZ <= rate_hz <= RATE_MAX_HZ:
        raise MediaError(f"the sample rate is {rate_hz} Hz; 8000 to 192000 Hz are served", "unsupported_rate")
    if not 1 <= channels <= CHANNELS_MAX:
        raise MediaError(f"the audio has {channels} channels; 1 to {CHANNELS_MAX} are served", "unsupported_channels")
    frames = max(0, len(data) - offset) // (4 * channels)
    interleaved = np.frombuffer(data, ">f4", count=frames * channels, offset=min(offset, len(data)))
    samples = np.empty((channels, frames), np.float32)
    for first in range(0, frames, _BLOCK_FRAMES):  # in blocks, or a long clip would be held four times over
        block = samples[:, first : first + _BLOCK_FRAMES]  # [C, up to _BLOCK_FRAMES]
        block[:] = interleaved.reshape(frames, channels)[first : first + _BLOCK_FRAMES].T
        with np.errstate(invalid="ignore"):
            block[~(np.abs(block) <= SAMPLE_MAX)] = 0.0  # the comparison is false for NaN too
    return Clip(samples, rate_hz)
