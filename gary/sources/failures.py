"""Which of our codes a failed download has, and the sentence that goes with it.

The downloader tells its failures apart by class, by HTTP status and, mostly, by the text that a site showed: this table
is the one place that knows those texts. It does not import the downloader, so the parent can use it too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from gary.errors import SOURCE_UNAVAILABLE_CODES, RecoverableError, SourceError, SourceUnavailable
from gary.sources.protocol import Code


@dataclass(frozen=True)
class Symptom:
    """What can be seen of a failure: the names of all classes in its chain, an HTTP status, the text."""

    kinds: frozenset[str]
    status: int | None
    text: str


@dataclass(frozen=True)
class _Row:
    """Matches where everything that it names is seen."""

    code: Code
    kind: str | None = None
    statuses: frozenset[int] = field(default_factory=frozenset)
    text: str | None = None  # a regular expression, searched without regard to case

    def matches(self, symptom: Symptom) -> bool:
        return (
            (self.kind is None or self.kind in symptom.kinds)
            and (not self.statuses or symptom.status in self.statuses)
            and (self.text is None or re.search(self.text, symptom.text, re.IGNORECASE) is not None)
        )


_APOSTROPHE = "['’]"  # YouTube writes both

# Most specific first: the first row that matches decides.
_ROWS = (
    _Row("unsupported", kind="AddressRefused"),
    _Row("unsupported", kind="UnsupportedError"),
    _Row("unsupported", text=r"no suitable extractor"),
    # A direct link that leads to another scheme, to no URL at all, in a circle, or to a page of another kind.
    _Row("unsupported", text=r"no connection adapters were found|failed to parse: |invalid ipv6 url"),
    _Row("unsupported", text=r"\[generic\].*(?:redirect loop detected|no video formats found)"),
    _Row("geo", kind="GeoRestrictedError"),
    _Row("disk_full", text=r"\[Errno (?:28|122)\]"),  # ENOSPC, EDQUOT
    _Row("too_large", text=r"\[Errno 27\]"),  # EFBIG: the process met its own limit for files
    # What YouTube says in the player's place.
    _Row("bot_check", text=rf"confirm you{_APOSTROPHE}re not a bot|captcha challenge|anti-bot challenge"),
    _Row("rate_limited", text=r"rate-limited by youtube|ip is likely being blocked"),
    _Row("rate_limited", text=rf"this content isn{_APOSTROPHE}t available, try again later"),
    _Row("age", text=r"confirm your age|age-restricted|inappropriate for some users"),
    _Row("geo", text=r"(?:in|from) your (?:country|location)"),
    _Row("private", text=r"private video|video is private|members-only|to this channel's members"),
    _Row("private", text=r"requires payment|music premium members"),
    _Row("live", text=r"premieres in|premiere will begin|live event will begin|live event has ended|live stream"),
    _Row("unsupported", text=r"drm protected|requested format is not available"),
    # SABR and missing tokens show as 403 on the media itself: the link is good, we were not served.
    _Row("upstream", statuses=frozenset({403}), text=r"unable to download video data"),
    _Row("rate_limited", statuses=frozenset({429})),
    _Row("geo", statuses=frozenset({451})),
    _Row("removed", statuses=frozenset({404, 410})),
    _Row("private", statuses=frozenset({401, 402, 403})),
    _Row("timeout", statuses=frozenset({408, 504})),
    _Row("upstream", statuses=frozenset(range(500, 600))),
    _Row("removed", text=r"video unavailable|has been removed|no longer available|has been terminated"),
    _Row("removed", text=r"video (?:is not available|does not exist|isn't available)"),
    _Row("bot_check", text=r"please sign in|login details are needed"),
    _Row("timeout", text=r"timed out"),
)


def classify(symptom: Symptom) -> Code:
    """The code of the first row that matches; `upstream` where none does, for then the far side or the downloader's
    knowledge of it has changed, and another attempt may succeed."""
    return next((row.code for row in _ROWS if row.matches(symptom)), "upstream")


def symptom_of(error: BaseException) -> Symptom:
    """What is to be seen of an exception and of all that it carries."""
    chain = list(_chain(error))
    statuses = (getattr(link, "status", None) for link in chain if type(link).__name__ == "HTTPError")
    return Symptom(
        kinds=frozenset(kind.__name__ for link in chain for kind in type(link).__mro__),
        status=next((status for status in statuses if isinstance(status, int)), None),
        text=str(error),
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and its causes, outermost first. yt-dlp keeps them in `exc_info` and `cause`, urllib and urllib3 in
    `reason`, Python in `__cause__` and `__context__`."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        link = waiting.pop(0)
        if not isinstance(link, BaseException) or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        exc_info = getattr(link, "exc_info", None)
        waiting += [exc_info[1]] if isinstance(exc_info, tuple) else []
        waiting += [getattr(link, "cause", None), getattr(link, "reason", None), link.__cause__, link.__context__]


_SENTENCES: dict[Code, str] = {
    "bot_check": "The site wants proof that our server is no robot, so this link cannot be fetched. Try another one.",
    "geo": "This link is blocked in the country where our server stands.",
    "age": "This video is only for viewers who have proved their age, so our server cannot fetch it.",
    "private": "This link is private, for members or behind a payment. Make it public or take another one.",
    "removed": "There is nothing at this link: it was removed or never existed.",
    "live": "This is a live stream or a premiere. Only what has been broadcast to its end can be fetched.",
    "too_long": "This recording is longer than we fetch. Take a shorter one.",
    "past_end": "The start lies at or beyond the end of the recording. Choose an earlier one.",
    "too_large": "The audio at this link is larger than we fetch.",
    "unsupported": "We find no audio at this link. It has to lead to one public, unprotected recording.",
    "rate_limited": "The site does not serve our server for the moment. Try again later.",
    "timeout": "The audio did not arrive in time. Try again, or take a shorter recording.",
    "disk_full": "Our server has no room for the download at the moment. Try again later.",
    "upstream": "The site did not give us the audio this time. Try again later.",
}


def error_for(code: Code) -> SourceError | RecoverableError:
    """The error of ours that a code stands for, with its sentence."""
    if code == "disk_full":
        return RecoverableError(_SENTENCES[code], code)
    kind = SourceUnavailable if code in SOURCE_UNAVAILABLE_CODES else SourceError
    return kind(_SENTENCES[code], code)
