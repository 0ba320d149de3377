"""Fetching a link's audio: the parent's side. Starts the fetching process, follows it, and ends it whatever happens.

No socket is opened here and no byte of what was fetched is read but as a whole, as the file that it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import deno

import gary
from gary.config import Limits, SourcesConfig
from gary.errors import FatalError, RecoverableError, ToolMissing
from gary.links import Link, parse_link
from gary.sources.failures import error_for
from gary.sources.protocol import FILE_NAME, LINE_MAX_BYTES, MESSAGES, Done, Downloaded, Failed, Job

logger = logging.getLogger(__name__)

OnProgress = Callable[[int, int | None], None]

_LOG_TAIL_BYTES = 8192


@dataclass(frozen=True)
class FetchedAudio:
    """A file as the far side served it.

    Attributes:
        data: the whole file; what it is, the decoder has to find out.
        title: as the site calls it; None where it has none.
        duration_s: as the site says; None where it does not.
    """

    data: bytes
    title: str | None
    duration_s: float | None


async def fetch(
    link: Link, start_s: float, limits: Limits, sources: SourcesConfig, on_progress: OnProgress | None = None
) -> FetchedAudio:
    """Downloads a link's audio, whole, in a process of its own that does not outlive the call.

    Args:
        start_s: where the caller will begin; refused where it is known to lie past the end.
        on_progress: called with the bytes that are here and the total, None where it is unknown.

    Raises:
        InvalidInput: the link is not among those that are served.
        SourceError: it cannot be fetched; `code` is one of SOURCE_CODES.
        SourceUnavailable: it was not served this time; `code` is one of SOURCE_UNAVAILABLE_CODES.
        RecoverableError: the process broke down.
        FatalError: deno is missing or the cookie file cannot be read.
    """
    assert start_s >= 0, f"start_s is checked before, not {start_s}"
    with tempfile.TemporaryDirectory(prefix="gary-fetch-") as directory:
        job = _make_job(parse_link(link.url, sources.allow_direct_urls), start_s, limits, sources, Path(directory))
        try:
            done = await _run(job, on_progress)
        except RecoverableError as error:
            logger.warning("fetching %s: %s: %s\n%s", job.url, error.code, error, _log_tail(job.job_dir))
            raise
        data = await asyncio.to_thread(_take_file, job.job_dir / FILE_NAME, limits.download_bytes)
    return FetchedAudio(data, done.title, done.duration_s)


def _make_job(link: Link, start_s: float, limits: Limits, sources: SourcesConfig, directory: Path) -> Job:
    youtube = link.site == "youtube"
    return Job(
        site=link.site,
        url=link.url,
        start_s=start_s,
        job_dir=directory,
        download_bytes=limits.download_bytes,
        source_duration_s=limits.source_duration_s,
        timeout_s=limits.download_timeout_s,
        parent_pid=os.getpid(),
        listed_address=link.literal_address(),
        deno_path=_find_deno() if youtube else None,
        cookie_file=None if link.site == "direct" else _copy_cookies(sources.cookie_file, directory),
    )


def _find_deno() -> Path:
    try:
        return Path(deno.find_deno_bin())
    except FileNotFoundError as error:
        found = shutil.which("deno")
        if found is None:
            raise ToolMissing("deno is not installed; YouTube links cannot be fetched without it") from error
        return Path(found)


def _copy_cookies(cookie_file: Path | None, directory: Path) -> Path | None:
    """A copy for the job: yt-dlp writes back what it was sent."""
    if cookie_file is None:
        return None
    try:
        return Path(shutil.copyfile(cookie_file, directory / "cookies.txt"))
    except OSError as error:
        raise FatalError(f"the cookie file cannot be read: {error.strerror}", "cookie_file") from error


async def _run(job: Job, on_progress: OnProgress | None) -> Done:
    (job.job_dir / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    with (job.job_dir / "job.json").open("rb") as stdin, (job.job_dir / "child.log").open("wb") as stderr:
        process = await _start(job, stdin, stderr)
    try:
        async with asyncio.timeout(job.timeout_s):
            return await _follow(process, job, on_progress)
    except TimeoutError as error:
        raise error_for("timeout") from error
    finally:
        await _end(process)


async def _start(job: Job, stdin: IO[bytes], stderr: IO[bytes]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-s"),  # neither the working directory nor the user's own packages are imported from
        *("-m", "gary.sources.child"),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        limit=LINE_MAX_BYTES,
        start_new_session=True,
        cwd=job.job_dir,
        env=_environment(job.job_dir),
    )


def _environment(directory: Path) -> dict[str, str]:
    """All that the child inherits: no token, proxy or setting of the service."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(gary.__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "YTDLP_NO_PLUGINS": "1",
        "DENO_NO_UPDATE_CHECK": "1",
    }


async def _follow(process: asyncio.subprocess.Process, job: Job, on_progress: OnProgress | None) -> Done:
    """Reads messages up to the answer."""
    assert process.stdout is not None
    while True:
        try:
            line = await process.stdout.readline()
            message = MESSAGES.validate_json(line) if line else None
        except ValueError as error:  # a line that is too long, or no message
            raise RecoverableError("The download broke down: its process answered nonsense.") from error
        match message:
            case Downloaded():
                if on_progress is not None:
                    on_progress(message.downloaded_bytes, message.total_bytes)
            case Done():
                return message
            case Failed():
                logger.info("fetching %s: %s: %s", job.url, message.code, message.detail)
                raise error_for(message.code)
            case None:
                raise RecoverableError("The download broke down: its process ended without an answer.")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.communicate()  # reads the pipe to its end, so that nothing of it stays open


def _take_file(path: Path, limit_bytes: int) -> bytes:
    """A file's bytes; the file is gone afterwards."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise RecoverableError("The download broke down: it left no file.")
        if status.st_size > limit_bytes:
            raise error_for("too_large")
        data = file.read()
    path.unlink()
    return data


def _log_tail(directory: Path) -> str:
    with (directory / "child.log").open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
        return log.read().decode("utf-8", "replace")
