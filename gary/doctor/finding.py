"""What a check found: a value. Whoever finds fault says what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"  # it runs, but less well, or not for long
    FAIL = "fail"  # something that the service does will not work


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        found: what is there, with its numbers.
        advice: what to do; empty where all is well.
    """

    subject: str
    verdict: Verdict
    found: str
    advice: str = ""

    def __post_init__(self) -> None:
        assert (self.verdict is Verdict.OK) == (not self.advice), f"{self.subject}: fault and advice go together"


def ok(subject: str, found: str) -> Finding:
    return Finding(subject, Verdict.OK, found)


def warn(subject: str, found: str, advice: str) -> Finding:
    return Finding(subject, Verdict.WARN, found, advice)


def fail(subject: str, found: str, advice: str) -> Finding:
    return Finding(subject, Verdict.FAIL, found, advice)
