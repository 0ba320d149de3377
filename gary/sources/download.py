"""One download by yt-dlp, inside the fetching process. The boundary where its exceptions become our codes.

Downloads are whole and native: a range would be handed to ffmpeg, whose sockets nobody guards.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import Any

from yt_dlp import YoutubeDL
from yt_dlp.utils import YoutubeDLError

from gary.sources.failures import classify, symptom_of
from gary.sources.protocol import DETAIL_MAX, FILE_NAME, TITLE_MAX, Code, Done, Downloaded, Failed, Job

_PROGRESS_S = 0.2  # least time between two messages of progress
_SOCKET_TIMEOUT_S = 20.0

# Each is matched against an extractor's whole name.
_EXTRACTORS = {"youtube": ["youtube"], "soundcloud": ["soundcloud"], "direct": ["generic"]}
_FORMATS = {
    "youtube": "bestaudio[protocol=https]/bestaudio/18",  # where YouTube forces SABR only 18 may remain
    # A preview is 30 s long whatever the track's length says.
    "soundcloud": "bestaudio[protocol^=http][format_id!*=preview]/bestaudio[format_id!*=preview]",
    "direct": "best",
}


class Refused(Exception):
    """We do not want this download. Not a DownloadCancelled: yt-dlp raises that anew, without what it carried."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def download(job: Job, report: Callable[[Downloaded], None]) -> Done | Failed:
    """Downloads into `job.job_dir`; what a site or the network does wrong comes back as `Failed`."""
    try:
        with YoutubeDL(options(job, report)) as downloader:
            info = downloader.extract_info(job.url)
    except Refused as refusal:
        return Failed(code=refusal.code, detail=refusal.detail)
    except YoutubeDLError as error:
        return Failed(code=classify(symptom_of(error)), detail=str(error)[:DETAIL_MAX])
    except OSError as error:  # cookies are written back outside of what yt-dlp translates
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        return Failed(code="disk_full", detail=str(error)[:DETAIL_MAX])
    except MemoryError:  # pages and manifests are read whole; the audio itself is not
        return Failed(code="too_large", detail="more memory was needed than the process may take")
    return _done(info)


def _done(info: dict[str, Any] | None) -> Done | Failed:
    files = (info or {}).get("requested_downloads") or []
    if info is None or len(files) != 1:
        return Failed(code="unsupported", detail=f"{len(files)} files instead of one")
    title = info.get("title")
    return Done(
        title=title[:TITLE_MAX] if title else None,
        duration_s=info.get("duration") or None,
    )


def options(job: Job, report: Callable[[Downloaded], None]) -> dict[str, Any]:
    """The parameters of `YoutubeDL` for a job."""
    return {
        **_WHAT_IS_TRIED,
        "allowed_extractors": _EXTRACTORS[job.site],
        "format": _FORMATS[job.site],
        "match_filter": _Filter(job),
        "progress_hooks": [_Progress(job, report)],
        "paths": {"home": str(job.job_dir)},
        "outtmpl": {"default": FILE_NAME},  # neither a title nor a URL's ending becomes a path
        "final_ext": "unknown_video",  # a name that yt-dlp thinks safe, or it refuses audio that ends in .php
        "cachedir": str(job.job_dir / "cache"),
        "cookiefile": None if job.cookie_file is None else str(job.cookie_file),
        "js_runtimes": {} if job.deno_path is None else {"deno": {"path": str(job.deno_path)}},
        "socket_timeout": min(_SOCKET_TIMEOUT_S, job.timeout_s),
        "logger": logging.getLogger("yt_dlp"),
    }


_WHAT_IS_TRIED: dict[str, Any] = {
    "noplaylist": True,
    "remote_components": [],
    "geo_bypass": False,  # it would send a made-up address along
    "proxy": "",
    "retries": 2,
    "fragment_retries": 2,
    "extractor_retries": 1,
    "file_access_retries": 0,
    "skip_unavailable_fragments": False,  # a hole in the music is worse than a failure
    "external_downloader": {"default": "native"},
    "fixup": "never",  # it would start ffmpeg; our decoder reads the containers as they come
    "postprocessors": [],
    "updatetime": False,
    "quiet": True,
    "noprogress": True,
    "color": "never",
}


class _Filter:
    """Refuses, before a byte of audio is fetched, what the service does not take."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, info: dict[str, Any], *, incomplete: Any) -> None:
        """Called by yt-dlp with True for playlists and their entries, with a set of names for a video whose format is
        not chosen yet, and with False when it is.

        Raises:
            Refused: this is not to be downloaded.
        """
        if incomplete is True:
            raise Refused("unsupported", "a playlist")
        if info.get("is_live") or info.get("live_status") in {"is_live", "is_upcoming", "post_live"}:
            raise Refused("live", f"live_status {info.get('live_status')}")
        if self._job.site == "direct":
            _refuse_pages(info)
        self._check_duration(info.get("duration"))

    def _check_duration(self, duration_s: float | None) -> None:
        if not duration_s:
            if self._job.site != "direct":  # of a plain file the decoder finds the length
                raise Refused("unsupported", "its length is unknown")
            return
        if duration_s > self._job.source_duration_s:
            raise Refused("too_long", f"{duration_s:g} s")
        if self._job.start_s >= duration_s:
            raise Refused("past_end", f"{self._job.start_s:g} s of {duration_s:g} s")


def _refuse_pages(info: dict[str, Any]) -> None:
    """The generic extractor also reads pages, feeds and manifests; a direct link has to be the audio itself."""
    if not info.get("direct"):
        raise Refused("unsupported", "no plain file")
    if info.get("protocol") not in {None, "http", "https"}:
        raise Refused("unsupported", f"protocol {info['protocol']}")


class _Progress:
    """Counts bytes as they arrive: refuses too many, reports now and then."""

    def __init__(self, job: Job, report: Callable[[Downloaded], None]) -> None:
        self._limit_bytes = job.download_bytes
        self._report = report
        self._reported_at_s = float("-inf")

    def __call__(self, state: dict[str, Any]) -> None:
        """
        Raises:
            Refused: more bytes came, or were announced, than the job may take.
        """
        if state["status"] == "error":
            return
        downloaded_bytes = int(state.get("downloaded_bytes") or 0)
        total_bytes = state.get("total_bytes")
        if max(downloaded_bytes, total_bytes or 0) > self._limit_bytes:
            raise Refused("too_large", f"{downloaded_bytes} bytes of {total_bytes}, limit {self._limit_bytes}")
        now_s = time.monotonic()
        if state["status"] == "finished" or now_s - self._reported_at_s >= _PROGRESS_S:
            self._reported_at_s = now_s
            self._report(Downloaded(downloaded_bytes=downloaded_bytes, total_bytes=total_bytes))
