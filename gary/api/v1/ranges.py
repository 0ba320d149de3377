"""Byte ranges and entity tags (RFC 9110, sections 8.8.3, 13.1 and 14): text in, numbers out."""

from __future__ import annotations

import re

_SINGLE = re.compile(r"bytes=(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})")
_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


class Unsatisfiable(Exception):
    """The range begins beyond the end."""


def chosen_range(header: str | None, size_bytes: int) -> range | None:
    """The bytes that a Range header asks for; None where all are to be sent.

    What is malformed, of another unit, or several ranges at once is ignored, as the RFC has it.

    Raises:
        Unsatisfiable
    """
    match = _SINGLE.fullmatch(header.strip()) if header is not None else None
    if match is None or not (match["first"] or match["last"]):
        return None
    if not match["first"]:
        suffix_bytes = min(int(match["last"]), size_bytes)
        chosen = range(size_bytes - suffix_bytes, size_bytes)
    else:
        first, last = int(match["first"]), int(match["last"] or size_bytes - 1)
        if match["last"] and last < first:
            return None
        chosen = range(first, min(last + 1, size_bytes))
    if not chosen:
        raise Unsatisfiable
    return chosen


def names_tag(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names the tag, or any."""
    if header is None:
        return False
    return header.strip() == "*" or etag in _TAG.findall(header)


def is_current(if_range: str | None, etag: str) -> bool:
    """Whether the parts that a client has are of what stands: by the strong tag alone, for no dates are sent."""
    return if_range is None or if_range.strip() == etag
