"""What the fetching process is told and what it may answer: one JSON object a line, checked where it arrives.

The child reads what strangers serve. So the parent takes nothing from it but these values, within these bounds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

FILE_NAME = "source.media"  # in the job's directory, whatever the far side calls it
TITLE_MAX = 300
DETAIL_MAX = 2000
LINE_MAX_BYTES = 64 * 1024  # asyncio's own limit for a line; the longest message stays far below

Code = Literal[
    "bot_check",
    "geo",
    "age",
    "private",
    "removed",
    "live",
    "too_long",
    "past_end",
    "too_large",
    "unsupported",
    "rate_limited",
    "timeout",
    "upstream",
    "disk_full",  # ours, not the far side's
]


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Job(_Value):
    """One download, as the parent asks for it on the child's standard input."""

    site: Literal["youtube", "soundcloud", "direct"]
    url: str
    start_s: float
    job_dir: Path  # private to this job; everything is written below it
    download_bytes: int
    source_duration_s: float
    timeout_s: float
    parent_pid: int
    hosts: tuple[str, ...]  # `host`, `host:port`, or `.host` for it and all below it: no other name is looked up
    listed_address: tuple[str, int] | None = None  # (IP, port) reached although it may be private
    deno_path: Path | None = None  # the one program that may be started
    cookie_file: Path | None = None  # the job's own copy


class Downloaded(_Value):
    """So many bytes are here; the total is None where the far side does not say."""

    kind: Literal["progress"] = "progress"
    downloaded_bytes: Annotated[int, Field(ge=0)]
    total_bytes: Annotated[int, Field(ge=0)] | None


class Done(_Value):
    """The whole audio lies in the job's directory, as FILE_NAME."""

    kind: Literal["done"] = "done"
    title: Annotated[str, Field(max_length=TITLE_MAX)] | None
    duration_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None


class Failed(_Value):
    """The link cannot be fetched. `detail` is for the server's log, never for a client."""

    kind: Literal["failed"] = "failed"
    code: Code
    detail: Annotated[str, Field(max_length=DETAIL_MAX)]


Message = Annotated[Downloaded | Done | Failed, Field(discriminator="kind")]
MESSAGES: TypeAdapter[Downloaded | Done | Failed] = TypeAdapter(Message)
