"""What clients of /v1 send: strict types, no unknown keys, a unit and bounds on every number.

Bounds that need no configuration stand here; the rest (models, links, limits, other tasks) is checked by `accept`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from gary.api.schemas import MODEL_MAX, URL_MAX
from gary.tasks.music import TAKES_MAX, Format

SEED_BOUND = 2**53  # what JavaScript's numbers hold exactly
DESCRIPTION_MAX = 1000  # characters
NAME_MAX = 120  # characters of a file's name
SECONDS_MAX = 100_000.0  # beyond any source that is served
TASK_ID_PATTERN = "^[0-9a-f]{24}$"

Seconds = Annotated[float, Field(ge=0, le=SECONDS_MAX, allow_inf_nan=False)]
End = Annotated[float, Field(gt=0, le=SECONDS_MAX, allow_inf_nan=False)]
Duration = Annotated[float, Field(ge=0.1, le=SECONDS_MAX, allow_inf_nan=False)]


class Input(BaseModel):
    """Base of all bodies. What is not known is refused, and a number written as text is none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class UrlSource(Input):
    """What plays at a link."""

    url: Annotated[str, Field(min_length=1, max_length=URL_MAX, description="a YouTube or SoundCloud address")]
    start_s: Annotated[Seconds, Field(description="where the prompt begins, with the side `cursor`")] = 0.0


class FileSource(Input):
    """The part `file` of a multipart request."""

    upload: Literal[True]
    name: Annotated[
        str | None, Field(max_length=NAME_MAX, description="shown with the task; by default the file's own")
    ] = None
    start_s: Annotated[Seconds, Field(description="where the prompt begins, with the side `cursor`")] = 0.0


class EarlierTask(Input):
    """Music that the service made, or a stretch of it: the answer begins with it, bit for bit."""

    task: Annotated[str, Field(pattern=TASK_ID_PATTERN, description="a completed task's id")]
    take: Annotated[int, Field(ge=0, lt=TAKES_MAX)] = 0
    start_s: Annotated[Seconds, Field(description="where the stretch begins")] = 0.0
    end_s: Annotated[End | None, Field(description="where it ends; by default at the end")] = None


def _kind(value: Any) -> str | None:
    """Which source is meant, by the one key that names it."""
    names = ("url", "upload", "task")
    given = [name for name in names if (name in value if isinstance(value, dict) else hasattr(value, name))]
    return given[0] if len(given) == 1 else None


Source = Annotated[
    Annotated[UrlSource, Tag("url")] | Annotated[FileSource, Tag("upload")] | Annotated[EarlierTask, Tag("task")],
    Discriminator(
        _kind, custom_error_type="source", custom_error_message="a source has exactly one of url, upload and task"
    ),
]


class InSeconds(Input):
    """So much new music."""

    seconds: Duration


class InRange(Input):
    """Whole bars of the source's tempo, as long as this allows; where no beat is heard, `max_s`."""

    min_s: Duration
    max_s: Duration

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.min_s > self.max_s:
            raise ValueError(f"min_s {self.min_s:g} is over max_s {self.max_s:g}")
        return self


class InBars(Input):
    """So many bars of four beats."""

    bars: Annotated[int, Field(ge=1, le=64)]
    tempo_bpm: Annotated[
        float | None, Field(ge=30, le=300, allow_inf_nan=False, description="by default heard in the source")
    ] = None


def _measure(value: Any) -> str | None:
    if not isinstance(value, dict):
        names: dict[type[Any], str] = {InSeconds: "seconds", InRange: "range", InBars: "bars"}
        return names.get(type(value))
    kinds = {"seconds": "seconds", "min_s": "range", "max_s": "range", "bars": "bars"}
    given = {kinds[name] for name in value if name in kinds}
    return given.pop() if len(given) == 1 else None


LengthAsked = Annotated[
    Annotated[InSeconds, Tag("seconds")] | Annotated[InRange, Tag("range")] | Annotated[InBars, Tag("bars")],
    Discriminator(
        _measure,
        custom_error_type="length",
        custom_error_message="a length is one of seconds, bars, or min_s with max_s",
    ),
]


class Prompt(Input):
    """The music that the model hears, and goes on from."""

    length_s: Annotated[Duration, Field(description="at most; a shorter source is taken whole")] = 6.0
    side: Annotated[
        Literal["cursor", "head", "tail"] | None,
        Field(
            description="where in the source it lies: from `start_s` on, its first or its last seconds; by default "
            "`cursor` of a link and `tail` of an upload; of a task it is the tail"
        ),
    ] = None


class SamplingAsked(Input):
    """How the model draws; what is left out is as usual."""

    top_k: Annotated[int, Field(ge=0, le=2048, description="0 is all")] = 250
    top_p: Annotated[float, Field(ge=0, le=1, description="above 0 it overrides top_k")] = 0.0
    temperature: Annotated[float, Field(ge=0, le=10, description="0 is greedy")] = 1.0
    cfg_coef: Annotated[float, Field(ge=0, le=20, description="guidance by the description; 1 is none")] = 3.0
    extend_stride_s: Annotated[
        float, Field(gt=0, lt=30, description="how far the window slides in music beyond the model's 30 s")
    ] = 18.0


class Wish(Input):
    """What a task is asked for, whatever it goes on from."""

    model: Annotated[
        str | None, Field(min_length=1, max_length=MODEL_MAX, description="by default the service's own")
    ] = None
    description: Annotated[
        str | None, Field(max_length=DESCRIPTION_MAX, description="of the music; by default the model's own, or none")
    ] = None
    prompt: Prompt = Prompt()
    length: Annotated[LengthAsked, Field(description="of the new music alone")] = InBars(bars=8)
    sampling: SamplingAsked = SamplingAsked()
    seed: Annotated[
        int | None,
        Field(ge=0, lt=SEED_BOUND, description="of the first take; take n has seed + n; by default a random one"),
    ] = None
    takes: Annotated[int, Field(ge=1, le=TAKES_MAX, description="answers to the one prompt")] = 1
    format: Annotated[Format, Field(description="of the audio where its request names none")] = "wav"


class TaskBody(Wish):
    """`POST /v1/tasks`."""

    source: Source

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"source": {"url": "https://www.youtube.com/watch?v=dQw4w9WgXcQ", "start_s": 30.0}},
                {"source": {"upload": True}, "length": {"seconds": 12.0}, "seed": 7, "takes": 2},
            ]
        }
    )


class ContinueTaskBody(Wish):
    """`POST /v1/tasks/{id}/continue`: as `POST /v1/tasks`, its source the task that the path names."""

    take: Annotated[int, Field(ge=0, lt=TAKES_MAX, description="which of the task's answers")] = 0
    start_s: Annotated[Seconds, Field(description="where the stretch begins that the answer begins with")] = 0.0
    end_s: Annotated[End | None, Field(description="where it ends; by default at the end")] = None

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"length": {"bars": 4}}, {"end_s": 12.5, "length": {"seconds": 8.0}}]}
    )

    def as_task(self, task_id: str) -> TaskBody:
        """The same as `POST /v1/tasks` takes it."""
        source = EarlierTask(task=task_id, take=self.take, start_s=self.start_s, end_s=self.end_s)
        wish = {name: getattr(self, name) for name in Wish.model_fields}
        return TaskBody.model_construct(source=source, **wish)
