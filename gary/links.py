"""Which links are served, decided from their text alone: no name is resolved and nothing is fetched here.

What leaves this module was put together by it, from an exact list of hosts and an exact form of path. No other part of
what a client sent reaches the downloader.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from gary.errors import InvalidInput

LENGTH_MAX = 2048

_DEFAULT_PORTS = {"http": 80, "https": 443}
_YOUTUBE_HOSTS = frozenset({"youtube.com", "www.youtube.com", "m.youtube.com", "music.youtube.com"})
_YOUTUBE_SHORT_HOSTS = frozenset({"youtu.be"})
_SOUNDCLOUD_HOSTS = frozenset({"soundcloud.com", "www.soundcloud.com", "m.soundcloud.com"})

_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_VIDEO_PATH = re.compile(r"/(?:shorts|embed|live)/([A-Za-z0-9_-]{11})/?")
_SHORT_PATH = re.compile(r"/([A-Za-z0-9_-]{11})/?")
# Words of the embedded player that have a video id's length and stand in its place.
_NO_VIDEO_IDS = frozenset({"videoseries", "live_stream"})

# A track that is not public carries its secret as a third part.
_TRACK_PATH = re.compile(r"/([A-Za-z0-9_-]+)/([A-Za-z0-9_-]+)(/s-[A-Za-z0-9]+)?/?")
_NO_ARTISTS = frozenset({"charts", "discover", "pages", "search", "settings", "stations", "tags", "you"})
_NO_TRACKS = frozenset(
    {
        "albums",
        "comments",
        "followers",
        "following",
        "likes",
        "popular-tracks",
        "reposts",
        "sets",
        "spotlight",
        "tracks",
    }
)

_SERVED = (
    "Send the link of a YouTube video (https://www.youtube.com/watch?v=...) "
    "or of a SoundCloud track (https://soundcloud.com/artist/track)."
)


@dataclass(frozen=True)
class Link:
    """A link that is served.

    Attributes:
        site: who serves it, and so which extractor reads it.
        url: rebuilt by `parse_link`; for a site without anything that the id does not need.
    """

    site: Literal["youtube", "soundcloud", "direct"]
    url: str

    def literal_address(self) -> tuple[str, int] | None:
        """(IP address, port) where the URL names an address itself; None where it names a host."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return None
        return host, parts.port or _DEFAULT_PORTS[parts.scheme]


def parse_link(url: str, allow_direct_urls: Sequence[str]) -> Link:
    """The link that a client's text stands for.

    Args:
        url: as the client sent it; one without a scheme is read as https.
        allow_direct_urls: each `host`, which is served at its scheme's own port, or `host:port`.

    Raises:
        InvalidInput: code `unsupported_url`; it is no link, or one that is not served.
    """
    parts, port = _split(url.strip())
    host = (parts.hostname or "").lower()
    if _listed(parts.scheme, host, port, allow_direct_urls):
        return Link("direct", _rebuilt(parts, host, port))
    if port != _DEFAULT_PORTS[parts.scheme]:
        raise _refused("A link with a port of its own is not served.")
    if host in _YOUTUBE_HOSTS | _YOUTUBE_SHORT_HOSTS:
        return Link("youtube", f"https://www.youtube.com/watch?v={_video_id(parts, host)}")
    if host in _SOUNDCLOUD_HOSTS:
        return Link("soundcloud", f"https://soundcloud.com{_track_path(parts)}")
    raise _refused("Links to this site are not served.")


def _refused(reason: str) -> InvalidInput:
    return InvalidInput(f"{reason} {_SERVED}", "unsupported_url")


def _split(text: str) -> tuple[SplitResult, int]:
    if len(text) > LENGTH_MAX:
        raise _refused(f"The link is longer than {LENGTH_MAX} characters.")
    # urlsplit drops line ends and tabs in silence, and browsers read a backslash as a slash.
    if not text or not text.isprintable() or " " in text or "\\" in text:
        raise _refused("The link is empty, or holds spaces, backslashes or control characters.")
    if "://" not in text.partition("?")[0]:
        text = f"https://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _refused("This is no link.") from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise _refused("Only http and https links are served.")
    if "@" in parts.netloc:
        raise _refused("A link with a user name is not served.")
    return parts, _DEFAULT_PORTS[parts.scheme] if port is None else port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listed(scheme: str, host: str, port: int, allow_direct_urls: Sequence[str]) -> bool:
    listed = {entry.lower() for entry in allow_direct_urls}
    bare = _bracketed(host)
    return f"{bare}:{port}" in listed or (port == _DEFAULT_PORTS[scheme] and bare in listed)


def _rebuilt(parts: SplitResult, host: str, port: int) -> str:
    place = _bracketed(host) if port == _DEFAULT_PORTS[parts.scheme] else f"{_bracketed(host)}:{port}"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    return f"{parts.scheme}://{place}{path}" + (f"?{query}" if query else "")


def _video_id(parts: SplitResult, host: str) -> str:
    if host in _YOUTUBE_SHORT_HOSTS:
        match = _SHORT_PATH.fullmatch(parts.path)
        found = match[1] if match else ""
    elif parts.path.rstrip("/") == "/watch":
        ids = set(parse_qs(parts.query).get("v", []))
        found = ids.pop() if len(ids) == 1 else ""
    else:
        match = _VIDEO_PATH.fullmatch(parts.path)
        found = match[1] if match else ""
    if not _VIDEO_ID.fullmatch(found) or found in _NO_VIDEO_IDS:
        raise _refused("This YouTube link names no video.")
    return found


def _track_path(parts: SplitResult) -> str:
    match = _TRACK_PATH.fullmatch(parts.path)
    if match is None or match[1] in _NO_ARTISTS or match[2] in _NO_TRACKS:
        raise _refused("This SoundCloud link names no track.")
    return f"/{match[1]}/{match[2]}{match[3] or ''}"
