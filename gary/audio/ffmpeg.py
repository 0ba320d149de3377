"""Runs ffmpeg. The only file that does.

What holds for every run of ffmpeg on a stranger's bytes:

- they lie in an unlinked temporary file that the child inherits as its standard input, so no two jobs can meet under
  one name, nothing is left behind after a crash, and containers that must seek (mp4) can;
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
import logging
import math
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import imageio_ffmpeg

from gary.audio import confine
from gary.config import MIB
from gary.errors import FatalError, RecoverableError, ToolMissing

_MEMORY_BYTES = 2048 * MIB  # address space of one ffmpeg: the program itself, its threads' stacks, a demuxer's tables
_STDERR_BYTES = 4096  # the end of what ffmpeg says is enough to tell why it failed
_READ_BYTES = MIB

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


@dataclass(frozen=True)
class Done:
    """How one ffmpeg ended."""

    status: int  # as in subprocess: negative for a signal
    output: bytearray  # what came through the pipe; empty where the output went to a file
    overflowed: bool  # more came than was allowed, and it was stopped
    complaint: str  # the end of its standard error


async def run_ffmpeg(
    arguments: Sequence[str], source: IO[bytes], target: IO[bytes] | None, timeout_s: float, size_max: int
) -> Done:
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
    return Done(status, output, overflowed, complaint)


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


def temporary_file() -> IO[bytes]:
    """A file without a name: gone when it is closed, or when we die. Not buffered, so closing writes nothing more."""
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise _no_room(error) from error


def fill(file: IO[bytes], data: bytes) -> None:
    """Writes all of `data`. Raises RecoverableError (disk_full, no_temporary_file)."""
    left = memoryview(data)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> RecoverableError:
    code = "disk_full" if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else "no_temporary_file"
    return RecoverableError("this machine has no room for temporary files", code)


def content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
