"""Times and ranges as people write them, to seconds and back."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import typer

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)")


def seconds(text: str) -> float:
    """`1:02:03`, `1:23.5` or `83.5`, in seconds; raises typer.BadParameter where it is none of them."""
    if clock := _CLOCK.fullmatch(text.strip()):
        hours, minutes, rest_s = int(clock[1] or 0), int(clock[2]), float(clock[3])
        if rest_s >= 60 or (clock[1] and minutes >= 60):
            raise typer.BadParameter(f"{text!r} has more than 59 minutes or seconds")
        return hours * 3600 + minutes * 60 + rest_s
    try:
        plain_s = float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no time; write 1:02:03, 1:23 or 83.5") from error
    if not math.isfinite(plain_s) or plain_s < 0:
        raise typer.BadParameter(f"{text!r} is no time from 0 on")
    return plain_s


@dataclass(frozen=True)
class SecondRange:
    """From `min_s` to `max_s`."""

    min_s: float
    max_s: float


def second_range(text: str) -> SecondRange:
    """`16-18` in seconds; raises typer.BadParameter where it is no range."""
    first, dash, last = text.partition("-")
    if not dash:
        raise typer.BadParameter(f"{text!r} is no range of seconds; write 16-18")
    return SecondRange(seconds(first), seconds(last))


def clock(duration_s: float) -> str:
    """`1:23`, or `1:02:03` from an hour on."""
    minutes, rest_s = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest_s:02}" if hours else f"{minutes}:{rest_s:02}"


def about(duration_s: float) -> str:
    """How long something will take, no more exact than it is known."""
    if duration_s < 1:
        return "a second"
    return f"{math.ceil(duration_s)} s" if duration_s < 90 else f"{math.ceil(duration_s / 60)} min"
