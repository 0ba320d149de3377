"""Codes for what goes wrong, on the texts that YouTube shows and yt-dlp writes."""

import inspect
from types import ModuleType
from typing import get_args

import pytest
import requests.sessions
import yt_dlp.extractor.common
import yt_dlp.extractor.generic
import yt_dlp.extractor.youtube._base
import yt_dlp.extractor.youtube._video
import yt_dlp.utils
import yt_dlp.YoutubeDL
from yt_dlp.networking.exceptions import TransportError
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, UnsupportedError

from gary.errors import SOURCE_CODES, SOURCE_UNAVAILABLE_CODES, RecoverableError, SourceError, SourceUnavailable
from gary.sources.failures import Symptom, classify, error_for, symptom_of
from gary.sources.guard import AddressRefused
from gary.sources.protocol import Code

_HINT = "Use --cookies-from-browser or --cookies for the authentication."


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"Sign in to confirm you’re not a bot. {_HINT}", "bot_check"),
        (f"Sign in to confirm you're not a bot. {_HINT}", "bot_check"),
        (f"Please sign in. {_HINT}", "bot_check"),
        (f"Sign in to confirm your age. This video may be inappropriate for some users. {_HINT}", "age"),
        (f"Private video. Sign in if you've been granted access to this video. {_HINT}", "private"),
        ("Video unavailable. This video is private", "private"),
        ("Join this channel to get access to members-only content like this video.", "private"),
        ("This video is available to this channel's members on level: Tomato (or any higher level).", "private"),
        ("This video requires payment to watch.", "private"),
        ("Video unavailable", "removed"),
        ("Video unavailable. This video has been removed by the uploader", "removed"),
        ("Video unavailable. This video is no longer available because the account has been terminated.", "removed"),
        ("This video is not available", "removed"),
        ("Video unavailable. The uploader has not made this video available in your country", "geo"),
        ("This video contains content from ZDF, who has blocked it in your country on copyright grounds", "geo"),
        ("Premieres in 6 hours", "live"),
        ("This live event will begin in 2 days.", "live"),
        ("This live event has ended.", "live"),
        ("Video unavailable. This live stream recording is not available.", "live"),
        ("This content isn’t available, try again later", "rate_limited"),
        ("We're processing this video. Check back later.", "upstream"),
        ("The following content is not available on this app.", "upstream"),
        ("unable to write data: [Errno 27] File too large", "too_large"),
        ("Read timed out.", "timeout"),
        ("Failed to resolve 'www.youtube.com' ([Errno -2] Name or service not known)", "upstream"),
        ("Did not get any data blocks", "upstream"),
    ],
)  # fmt: skip
def test_texts_have_codes(text: str, code: Code) -> None:
    """What the sites show in the player's place, in the words that users report, has its own code."""
    error = DownloadError(f"ERROR: [youtube] dQw4w9WgXcQ: {text}")
    assert classify(symptom_of(error)) == code


@pytest.mark.parametrize(
    ("module", "text", "code"),
    [
        (yt_dlp.extractor.youtube._video, "has been rate-limited by YouTube for up to an hour", "rate_limited"),
        (yt_dlp.extractor.youtube._video, "Your IP is likely being blocked by Youtube", "rate_limited"),
        (yt_dlp.extractor.youtube._video, "YouTube is requiring a captcha challenge before playback", "bot_check"),
        (yt_dlp.extractor.youtube._video, "confirm your age", "age"),
        (yt_dlp.extractor.youtube._video, "The uploader has not made this video available in your country", "geo"),
        (yt_dlp.extractor.youtube._base, "Login details are needed to download this content", "bot_check"),
        (yt_dlp.extractor.common, "This video is not available from your location due to geo restriction", "geo"),
        (yt_dlp.extractor.common, "This video is DRM protected", "unsupported"),
        (yt_dlp.extractor.generic, "caused by Cloudflare anti-bot challenge", "bot_check"),
        (yt_dlp.YoutubeDL, "Requested format is not available", "unsupported"),
        (yt_dlp.YoutubeDL, "No suitable extractor", "unsupported"),
        (yt_dlp.YoutubeDL, "No video formats found!", "upstream"),
        (requests.sessions, "No connection adapters were found", "unsupported"),
    ],
)
def test_the_installed_downloader_still_writes_these_texts(module: ModuleType, text: str, code: Code) -> None:
    """A text that the table relies on stands in the source of the installed yt-dlp, and has its code; so a new version
    that words it differently shows here."""
    assert text in inspect.getsource(module)
    assert classify(Symptom(frozenset(), None, text)) == code


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (404, "Unable to download webpage: HTTP Error 404: Not Found", "removed"),
        (410, "Unable to download webpage: HTTP Error 410: Gone", "removed"),
        (401, "Unable to download webpage: HTTP Error 401: Unauthorized", "private"),
        (403, "Unable to download webpage: HTTP Error 403: Forbidden", "private"),
        (403, "unable to download video data: HTTP Error 403: Forbidden", "upstream"),
        (429, "Unable to download API page: HTTP Error 429: Too Many Requests", "rate_limited"),
        (451, "Unable to download webpage: HTTP Error 451: Unavailable For Legal Reasons", "geo"),
        (500, "Unable to download webpage: HTTP Error 500: Internal Server Error", "upstream"),
        (504, "Unable to download webpage: HTTP Error 504: Gateway Timeout", "timeout"),
        (302, "[generic] a: Unable to download webpage: HTTP Error 302: Found (redirect loop detected)", "unsupported"),
        (302, "[youtube] a: Unable to download webpage: HTTP Error 302: Found (redirect loop detected)", "upstream"),
        (None, "[generic] a: No video formats found!; please report this issue", "unsupported"),
        (None, "unable to write data: [Errno 28] No space left on device", "disk_full"),
        (None, "unable to write data: [Errno 27] File too large", "too_large"),
    ],
)
def test_statuses_have_codes(status: int | None, text: str, code: Code) -> None:
    """An HTTP status decides where the text says no more; a 403 on the media itself is the far side's trouble, a full
    disk ours."""
    assert classify(Symptom(frozenset({"HTTPError"}), status, text)) == code


def _as_reported(error: Exception) -> DownloadError:
    """An exception as yt-dlp hands it out: wrapped, with the original in `exc_info`."""
    return DownloadError(f"ERROR: {error}", (type(error), error, None))


def _refused_by_the_guard() -> ExtractorError:
    refusal = OSError("Failed to establish a new connection")
    refusal.__cause__ = AddressRefused("('10.0.0.1', 80) is not a public address")
    return ExtractorError("Unable to download webpage", cause=TransportError(cause=refusal))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GeoRestrictedError("Not here"), "geo"),
        (UnsupportedError("http://host/premieres in private video has been removed"), "unsupported"),
        (ExtractorError("An extractor error has occurred."), "upstream"),
        (_refused_by_the_guard(), "unsupported"),
    ],
)
def test_classes_are_found_in_the_chain(error: Exception, code: Code) -> None:
    """A class that says it all is found behind what yt-dlp wraps around it, and outranks words of a user's own URL."""
    assert classify(symptom_of(_as_reported(error))) == code


def test_every_code_has_its_error_and_its_sentence() -> None:
    """The codes of the protocol are those of the error tree and a full disk; each makes the right class, with a
    sentence."""
    codes: tuple[Code, ...] = get_args(Code)
    assert set(codes) == SOURCE_CODES | SOURCE_UNAVAILABLE_CODES | {"disk_full"}
    for code in codes:
        error = error_for(code)
        kinds = (SourceUnavailable, SOURCE_UNAVAILABLE_CODES), (RecoverableError, {"disk_full"})
        assert type(error) is next((kind for kind, members in kinds if code in members), SourceError)
        assert error.code == code
        assert error.message.endswith(".")
