"""Fetching a link's audio: the parent's side. Starts the fetching process, follows it, and ends it whatever happens.

No socket is opened here and no byte of what was fetched is read but as a whole, as the file that it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import deno

import gary
from gary.config import Limits, SourcesConfig
from gary.errors import FatalError, RecoverableError, ToolMissing
from gary.links import Link, parse_link
from gary.logs import relay
from gary.sources.failures import error_for
from gary.sources.protocol import FILE_NAME, LINE_MAX_BYTES, MESSAGES, Done, Downloaded, Failed, Job

logger = logging.getLogger(__name__)

OnProgress = Callable[[int, int | None], None]

_LOG_TAIL_BYTES = 8192
_PREFIX = "gary-fetch-"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # EFBIG: a limit of this process for the size of files

# Whom the sites' own extractors ask: pages, player and media.
_SITE_HOSTS = {
    "youtube": (".youtube.com", ".googlevideo.com", ".googleapis.com", ".google.com", ".ytimg.com"),
    "soundcloud": (".soundcloud.com", ".sndcdn.com", ".soundcloud.cloud"),
}


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
        RecoverableError: the process broke down; code `disk_full`: this machine has no room for the download.
        FatalError: deno is missing or the cookie file cannot be read.
    """
    assert start_s >= 0, f"start_s is checked before, not {start_s}"
    served = parse_link(link.url, sources.allow_direct_urls)
    with _private_directory() as directory:
        job = _make_job(served, start_s, limits, sources, directory)
        try:
            done = await _run(job, on_progress)
        except RecoverableError as error:
            logger.warning("fetching %s: %s: %s", job.url, error.code, error)
            relay(_log_tail(job.job_dir).splitlines(), logger)
            raise
        data = await asyncio.to_thread(_take_file, job.job_dir / FILE_NAME, limits.download_bytes)
    return FetchedAudio(data, done.title, done.duration_s)


def remove_orphans(folder: Path | None = None) -> int:
    """Removes what fetches left behind whose process was killed; says how many directories that were.

    A directory belongs to the process that holds its lock (flock(2)), which goes with the process, however that ends.

    Args:
        folder: where they lie; None: where temporary files go.
    """
    removed = 0
    for path in sorted((folder or Path(tempfile.gettempdir())).glob(f"{_PREFIX}*")):
        lock = _lock(path)
        if lock is None:
            continue
        try:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)
        removed += not path.exists()
    return removed


def _lock(path: Path) -> int | None:
    """The descriptor of a directory of ours that is locked from now on; None where it is another's, or gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(descriptor)
        if status.st_uid == os.geteuid() and os.path.samestat(status, path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


@contextlib.contextmanager
def _private_directory() -> Iterator[Path]:
    """A new directory that no `remove_orphans` removes, until the block ends."""
    lock = None
    while lock is None:  # between making and locking it, somebody's remove_orphans may have come by
        with _room_needed():
            path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _lock(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)
        if path.exists():
            logger.warning("%s could not be removed", path)


@contextlib.contextmanager
def _room_needed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise error_for("disk_full") from error
        raise RecoverableError(f"The download cannot begin: {error.strerror}.") from error


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
        hosts=sources.allow_direct_urls if link.site == "direct" else _SITE_HOSTS[link.site],
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
        if error.errno in _FULL:
            raise error_for("disk_full") from error
        raise FatalError(f"the cookie file cannot be read: {error.strerror}", "cookie_file") from error


async def _run(job: Job, on_progress: OnProgress | None) -> Done:
    with _room_needed():
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
    """A file's bytes.

    Raises:
        SourceError: code `too_large`.
        RecoverableError: there is no such plain file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise RecoverableError("The download broke down: it left no file.") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise RecoverableError("The download broke down: it left no file.")
        if status.st_size > limit_bytes:
            raise error_for("too_large")
        return file.read(limit_bytes)


def _log_tail(directory: Path) -> str:
    path = directory / "child.log"
    if not path.exists():  # it never came to that
        return ""
    with path.open("rb") as log:
        if log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES)) > 0:
            log.readline()  # the rest of one
        return log.read().decode("utf-8", "replace")
