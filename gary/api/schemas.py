"""What the two old clients send, read with their habits: numbers as strings, null for "as usual", extra keys.

Bounds that need no configuration stand here; the rest (models, links, limits) is checked by the routes.
"""

from __future__ import annotations

import binascii
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from gary.errors import InvalidInput

URL_MAX = 8192  # characters; far beyond any link that is served, and what a sentence about one may cost
MODEL_MAX = 200  # characters of a model's name
# What may be written where a number is meant; JavaScript's String(number) is always of this form.
_DECIMAL = r"^ *[0-9]{1,15}(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})? *$"
_RANGE_PATTERN = r"^ *[0-9]{1,5}(\.[0-9]{1,25})? *- *[0-9]{1,5}(\.[0-9]{1,25})? *$"
_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.IGNORECASE)
TASK_ID = {"type": "string", "pattern": "^[0-9a-fA-F]{24}$"}
_NULL = {"type": "null"}


def _number(value: Any) -> Any:
    """Pydantic takes true for 1, and "1_0" for 10; a client that sends such means something else."""
    if isinstance(value, bool) or (isinstance(value, str) and not re.fullmatch(_DECIMAL[1:-1], value)):
        raise PydanticCustomError("not_a_number", "must be a number of seconds")
    return value


def _seconds(*others: dict[str, str], **bound: int) -> WithJsonSchema:
    """A number, or a string that spells one, as the OpenAPI shows it."""
    return WithJsonSchema({"anyOf": [{"type": "number", **bound}, {"type": "string", "pattern": _DECIMAL}, *others]})


_FINITE = (BeforeValidator(_number), Field(allow_inf_nan=False))
Start = Annotated[float, *_FINITE, Field(ge=0), _seconds(_NULL, minimum=0)]
Length = Annotated[float, *_FINITE, Field(gt=0), _seconds(_NULL, exclusiveMinimum=0)]
End = Annotated[float, *_FINITE, Field(gt=0), _seconds(exclusiveMinimum=0)]
ModelName = Annotated[str | None, Field(max_length=MODEL_MAX, description="one of the served models' names")]


class Body(BaseModel):
    """Base of the old bodies."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        return (
            {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else values
        )


class GenerateBody(Body):
    """`POST /generate`."""

    url: Annotated[str, Field(max_length=URL_MAX, description="a YouTube or SoundCloud address")]
    start_s: Annotated[Start, Field(alias="currentTime")] = 0.0
    model: ModelName = None
    prompt_s: Annotated[Length, Field(alias="promptLength")] = 6.0
    duration: Annotated[
        str,
        Field(description="least and greatest length in seconds, as 16-18"),
        WithJsonSchema({"anyOf": [{"type": "string", "pattern": _RANGE_PATTERN}, _NULL]}),
    ] = "16-18"

    def range_s(self, output_max_s: float) -> tuple[float, float]:
        """Least and greatest length of the answer.

        Raises:
            InvalidInput: `duration` is no range, reversed, zero or over `output_max_s`, or not longer than the prompt.
        """
        if not re.fullmatch(_RANGE_PATTERN[1:-1], self.duration):
            raise InvalidInput(f"duration is {self.duration[:40]!r}; it must be a range of seconds such as '16-18'")
        min_s, max_s = map(float, self.duration.split("-"))
        if not 0 < min_s <= max_s <= output_max_s:
            raise InvalidInput(
                f"duration is {self.duration[:40]!r}; it must rise, from over 0 to at most {output_max_s:g} seconds"
            )
        if self.prompt_s >= max_s:
            raise InvalidInput(f"promptLength is {self.prompt_s:g} s; it must be less than the duration, {max_s:g} s")
        return min_s, max_s


class ContinueBody(Body):
    """`POST /continue`."""

    task_id: Annotated[str, WithJsonSchema(TASK_ID)]
    model: ModelName = None
    prompt_s: Annotated[Length, Field(alias="prompt_duration")] = 6.0
    audio: Annotated[str, Field(description="base64 of WAV or MP3, with or without a data-URL prefix")]


class CropBody(Body):
    """`POST /crop-audio`."""

    audio: Annotated[str, Field(alias="audioData", description="base64")]
    start_s: Annotated[Start, Field(alias="start")] = 0.0
    end_s: Annotated[End, Field(alias="end")]


class CombineBody(Body):
    """`POST /combine-audio`."""

    clips: Annotated[list[str], Field(alias="audioClips", min_length=1, description="base64 each, in order")]


class ExportBody(Body):
    """`POST /export-to-mp3`."""

    audio: Annotated[str, Field(alias="audioData", description="base64")]


def decode_base64(text: str, field: str) -> bytes:
    """The bytes behind base64, with or without a data-URL prefix or line breaks.

    Raises:
        InvalidInput: it is something else, or empty.
    """
    prefix = _DATA_URL.match(text, 0, 200)
    payload = text[prefix.end() :] if prefix else text
    if any(space in payload for space in " \r\n\t"):
        payload = "".join(payload.split())
    try:
        data = binascii.a2b_base64(payload, strict_mode=True)
    except ValueError as error:  # binascii.Error, or characters outside ASCII
        raise InvalidInput(f"{field} is not base64: {error}", "not_base64") from error
    if not data:
        raise InvalidInput(f"{field} is empty; it must be the base64 of an audio file", "empty_audio")
    return data
