"""What may be asked of the service. Values only; what is None is left out, so the service's defaults hold.

Bounds are the service's to check: a client that checked them too would be wrong whenever they change.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Format = Literal["wav", "flac", "mp3", "opus"]
Side = Literal["cursor", "head", "tail"]


class Asked(BaseModel):
    """Base of all values here: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LinkSource(Asked):
    """What plays at a URL, from `start_s` on."""

    url: str
    start_s: float | None = None


class UploadSource(Asked):
    """A file that goes with the request."""

    upload: Literal[True] = True
    start_s: float | None = None


class TaskSource(Asked):
    """A take of an earlier task, or its stretch from `start_s` to `end_s`."""

    task: str
    take: int | None = None
    start_s: float | None = None
    end_s: float | None = None


Source = LinkSource | UploadSource | TaskSource


class Prompt(Asked):
    """What the model hears: `length_s` from the source's cursor (its start_s), its head or its tail."""

    length_s: float | None = None
    side: Side | None = None


class Length(Asked):
    """How much new music: one of `seconds`, `min_s` with `max_s`, or `bars`, whose tempo is heard unless given."""

    seconds: float | None = None
    min_s: float | None = None
    max_s: float | None = None
    bars: int | None = None
    tempo_bpm: float | None = None


class Sampling(Asked):
    """How tokens are drawn."""

    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    cfg_coef: float | None = None
    extend_stride_s: float | None = None


class Order(Asked):
    """All that is asked, but for the source.

    Attributes:
        seed: of the first take; take n is what `seed + n` alone would make.
        format: in which the answer is sent where nobody names one.
    """

    model: str | None = None
    description: str | None = None
    prompt: Prompt | None = None
    length: Length | None = None
    sampling: Sampling | None = None
    seed: int | None = None
    takes: int | None = None
    format: Format | None = None

    def body(self) -> dict[str, object]:
        """As POST takes it."""
        return self.model_dump(exclude_none=True)
