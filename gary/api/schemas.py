"""What the two old clients send, read with their habits: numbers as strings, null for "as usual", extra keys.

Bounds that need no configuration stand here; the rest (models, links, limits) is checked by the routes.
"""

from __future__ import annotations

import binascii
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from gary.errors import InvalidInput

_RANGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)\s*")
_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.IGNORECASE)


def _number(value: Any) -> Any:
    """Pydantic takes true for 1; a client that sends it means something else."""
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "must be a number of seconds")
    return value


Seconds = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]


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

    url: Annotated[str, Field(description="a YouTube or SoundCloud address")]
    start_s: Annotated[Seconds, Field(alias="currentTime", ge=0)] = 0.0
    model: str | None = None
    prompt_s: Annotated[Seconds, Field(alias="promptLength", gt=0)] = 6.0
    duration: Annotated[str, Field(description="least and greatest length in seconds, as 16-18")] = "16-18"

    def range_s(self, output_max_s: float) -> tuple[float, float]:
        """Least and greatest length of the answer.

        Raises:
            InvalidInput: `duration` is no range, reversed, zero or over `output_max_s`, or not longer than the prompt.
        """
        match = _RANGE.fullmatch(self.duration)
        if match is None:
            raise InvalidInput(f"duration is {self.duration[:40]!r}; it must be a range of seconds such as '16-18'")
        min_s, max_s = float(match[1]), float(match[2])
        if not 0 < min_s <= max_s <= output_max_s:
            raise InvalidInput(
                f"duration is {self.duration[:40]!r}; it must rise, from over 0 to at most {output_max_s:g} seconds"
            )
        if self.prompt_s >= max_s:
            raise InvalidInput(f"promptLength is {self.prompt_s:g} s; it must be less than the duration, {max_s:g} s")
        return min_s, max_s


class ContinueBody(Body):
    """`POST /continue`."""

    task_id: str
    model: str | None = None
    prompt_s: Annotated[Seconds, Field(alias="prompt_duration", gt=0)] = 6.0
    audio: Annotated[str, Field(description="base64 of WAV or MP3, with or without a data-URL prefix")]


class CropBody(Body):
    """`POST /crop-audio`."""

    audio: Annotated[str, Field(alias="audioData", description="base64")]
    start_s: Annotated[Seconds, Field(alias="start", ge=0)] = 0.0
    end_s: Annotated[Seconds, Field(alias="end", gt=0)]


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
