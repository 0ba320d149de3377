"""Bytes to `Clip` and back. The only file that runs ffmpeg.

What holds for every run of ffmpeg on a stranger's bytes:

- they lie in an unlinked temporary file that the child inherits as its standard input, so no two jobs can meet under
  one name, nothing is left behind after a crash, and containers that must seek (mp4) can;
- the demuxer is one of `CONTAINERS`; playlists, which name other files and hosts, are not among them, and
  no protocol but `file` and `pipe` may be opened;
- no string of a user's becomes an argument: only numbers do;
- the child has its own session, limits on CPU, memory and file size, no network, no second process and no file
  beside that one (`gary.audio.confine`); it dies with the thread that started it, and is killed as a group when the
  time is up or the caller gives up.

What ffmpeg says goes to the log, never to a client.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import io
import logging
import math
import os
import shutil
import signal
import struct
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np
import soundfile

from gary.audio import confine
from gary.audio.clip import Clip
from gary.audio.crop import resample, with_channels
from gary.config import MIB, Limits
from gary.errors import FatalError, InvalidInput, MediaError, RecoverableError, TooLarge, ToolMissing

# The names of ffmpeg's demuxers, in its releases 5 to 9.
CONTAINERS = "wav,w64,aiff,au,caf,voc,flac,ogg,mp3,aac,ac3,eac3,amr,wv,ape,tta,mov,mp4,m4a,3gp,matroska,webm,asf,mpegts"
RATE_MIN_HZ, RATE_MAX_HZ = 8_000, 192_000
CHANNELS_MAX = 8
SAMPLE_MAX = 2.0**16  # float files go beyond 1; what is beyond even this is damage
MP3_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

_MEMORY_BYTES = 2048 * MIB  # address space of one ffmpeg: the program itself, its threads' stacks, a demuxer's tables
_STDERR_BYTES = 4096  # the end of what ffmpeg says is enough to tell why it failed
_READ_BYTES = MIB
_BLOCK_FRAMES = 1 << 18
_SLACK_BYTES = 16 * MIB  # what cutting at whole seconds lets through beside the stretch, and more
_AU_HEADER = struct.Struct(">4s5I")  # magic, offset of the samples, their bytes, encoding, rate, channels
_AU_FLOAT32 = 6

_log = logging.getLogger(__name__)


@functools.cache
def find_ffmpeg() -> Path:
    """The system's ffmpeg, else the one inside the package imageio-ffmpeg.

    Raises:
        ToolMissing: there is neither.
    """
    found = shutil.which("ffmpeg")
    if found is not None:
        return Path(found)
    try:
        return Path(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise ToolMissing("ffmpeg is not installed: neither on PATH nor in imageio-ffmpeg") from error


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
    with _temporary_file() as source:
        await asyncio.to_thread(_fill, source, data)
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
    integers = np.clip(np.rint(clip.samples.T * np.float32(32768)), -32768, 32767).astype(np.int16)  # [N, C]
    file = io.BytesIO()
    soundfile.write(file, integers, clip.rate_hz, format="WAV", subtype="PCM_16")
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
    limits = limits or Limits()
    playable = await asyncio.to_thread(_fit_mp3, clip)
    pcm = await asyncio.to_thread(lambda: np.ascontiguousarray(playable.samples.T, dtype="<f4").tobytes())
    size_max = len(pcm) + MIB  # no MP3 is larger than its floats
    arguments = ["-f", "f32le", "-ar", str(playable.rate_hz), "-ac", str(playable.channels), "-i", "file:/dev/stdin"]
    arguments += ["-c:a", "libmp3lame", "-q:a", "2", "-map_metadata", "-1", "-f", "mp3", "file:/dev/stdout"]
    with _temporary_file() as source, _temporary_file() as target:
        await asyncio.to_thread(_fill, source, pcm)
        try:
            done = await _run_ffmpeg(arguments, source, target, limits.ffmpeg_timeout_s, size_max)
        except TimeoutError as error:
            raise RecoverableError(f"writing MP3 took over {limits.ffmpeg_timeout_s:g} s", "timeout") from error
        if done.status != 0 and os.strerror(errno.ENOSPC) in done.complaint:
            raise RecoverableError("this machine has no room for temporary files", "disk_full")
        if done.status != 0:
            raise FatalError(f"ffmpeg could not write MP3 (status {done.status})", "encode_failed")
        return await asyncio.to_thread(_content, target)


def _fit_mp3(clip: Clip) -> Clip:
    """The clip at a rate and channel count that MP3 has, within -1 to 1."""
    rate_hz = next((rate for rate in MP3_RATES_HZ if rate >= clip.rate_hz), MP3_RATES_HZ[-1])
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
        done = await _run_ffmpeg(arguments, source, None, limits.ffmpeg_timeout_s, limits.decoded_bytes + _SLACK_BYTES)
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


@dataclass(frozen=True)
class _Done:
    """How one ffmpeg ended."""

    status: int  # as in subprocess: negative for a signal
    output: bytearray  # what came through the pipe; empty where the output went to a file
    overflowed: bool  # more came than was allowed, and it was stopped
    complaint: str  # the end of its standard error


async def _run_ffmpeg(
    arguments: Sequence[str], source: IO[bytes], target: IO[bytes] | None, timeout_s: float, size_max: int
) -> _Done:
    """Runs ffmpeg under its limits, with `source` as standard input and `target`, or a pipe, as standard output.

    Args:
        size_max: bytes that may be written.

    Raises:
        TimeoutError: not done within `timeout_s`; its whole process group is dead.
        ToolMissing: ffmpeg cannot be executed.
        RecoverableError: no process can be started for now.
    """
    source.seek(0)
    command = _confined(timeout_s, size_max + MIB if target else 0)
    command += [str(find_ffmpeg()), "-nostdin", "-hide_banner", "-v", "error", "-y", "-threads", "1", *arguments]
    async with asyncio.timeout(timeout_s), _child(command, source, target) as process:
        assert process.stderr is not None
        if process.stdout is None:
            complaint = await _last_words(process.stderr)
            output, overflowed = bytearray(), False
        else:
            (output, overflowed), complaint = await asyncio.gather(
                _read_at_most(process.stdout, process, size_max + 4096), _last_words(process.stderr)
            )
        status = await process.wait()
    if complaint:
        _log.info("ffmpeg ended with status %d: %s", status, complaint)
    if status == confine.CANNOT_EXECUTE:
        raise ToolMissing("ffmpeg cannot be executed")
    if status == confine.CANNOT_CONFINE:
        raise FatalError("ffmpeg cannot be confined on this machine", "cannot_confine")
    return _Done(status, output, overflowed, complaint)


@asynccontextmanager
async def _child(command: list[str], source: IO[bytes], target: IO[bytes] | None) -> AsyncIterator[Process]:
    """A child in a session of its own; on leaving, by whatever way, its group is dead and reaped."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=source,
            stdout=PIPE if target is None else target,
            stderr=PIPE,
            env={"LC_ALL": "C"},
            cwd="/",
            start_new_session=True,
            limit=_READ_BYTES,
        )
    except OSError as error:  # too many processes or descriptors, no memory
        raise RecoverableError(f"no process can be started: {error.strerror}", "no_process") from error
    try:
        yield process
    finally:
        _kill_group(process)
        await asyncio.shield(process.wait())


def _kill_group(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


async def _read_at_most(stream: asyncio.StreamReader, process: Process, size_max: int) -> tuple[bytearray, bool]:
    """All bytes of the stream, or more than `size_max` of them and True; then the process is killed."""
    output = bytearray()
    while chunk := await stream.read(_READ_BYTES):
        output += chunk
        if len(output) > size_max:
            _kill_group(process)
            return output, True
    return output, False


async def _last_words(stream: asyncio.StreamReader) -> str:
    """The end of a stream, read to its end so that the writer never blocks."""
    kept = b""
    while chunk := await stream.read(_STDERR_BYTES):
        kept = (kept + chunk)[-_STDERR_BYTES:]
    return kept.decode(errors="replace").strip()


def _confined(timeout_s: float, file_bytes: int) -> list[str]:
    """The command that confines itself and then becomes the one that is appended."""
    _tell_what_is_missing()
    # Twice the wall clock and more: this is for when nobody watches that any longer.
    limits = (math.ceil(2 * timeout_s) + 1, _MEMORY_BYTES, file_bytes)
    return [sys.executable, "-I", "-S", confine.__file__, str(os.getpid()), *map(str, limits)]


@functools.cache
def _tell_what_is_missing() -> None:
    for name in confine.missing():
        _log.warning("this kernel has no %s for us: ffmpeg runs without what that would hold back", name)


def _temporary_file() -> IO[bytes]:
    """A file without a name: gone when it is closed, or when we die. Not buffered, so closing writes nothing more."""
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise _no_room(error) from error


def _fill(file: IO[bytes], data: bytes) -> None:
    left = memoryview(data)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> RecoverableError:
    code = "disk_full" if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else "no_temporary_file"
    return RecoverableError("this machine has no room for temporary files", code)


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
