"""The old bodies, as the clients send them and as they must not."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gary.api.schemas import ContinueBody, CropBody, GenerateBody, decode_base64
from gary.errors import InvalidInput


def test_numbers_come_as_strings() -> None:
    """Both clients send some numbers as strings; defaults are the contract's."""
    body = GenerateBody.model_validate({"url": "u", "promptLength": "6", "currentTime": "12.5", "other": 1})
    assert (body.start_s, body.prompt_s, body.range_s(30)) == (12.5, 6.0, (16.0, 18.0))
    assert CropBody.model_validate({"audioData": "x", "end": "7.25"}).end_s == 7.25
    assert ContinueBody.model_validate({"task_id": "t", "audio": "x", "prompt_duration": None}).prompt_s == 6.0


@pytest.mark.parametrize("value", ["NaN", "inf", "-1", -0.5, "soon", [], {}, True, ""])
def test_a_timestamp_is_a_finite_number_from_zero_on(value: object) -> None:
    with pytest.raises(ValidationError):
        GenerateBody.model_validate({"url": "u", "currentTime": value})


@pytest.mark.parametrize("value", [0, "0", -3, "NaN", False])
def test_a_prompt_has_a_length(value: object) -> None:
    with pytest.raises(ValidationError):
        GenerateBody.model_validate({"url": "u", "promptLength": value})


@pytest.mark.parametrize(
    "duration", ["18-16", "0-0", "0-10", "16-31", "16", "-16-18", "a-b", "16-18-20", "", "1e1-2e1"]
)
def test_a_duration_is_a_rising_range_within_the_models_window(duration: str) -> None:
    with pytest.raises(InvalidInput, match="duration"):
        GenerateBody.model_validate({"url": "u", "duration": duration}).range_s(30)


@pytest.mark.parametrize("duration", ["16-18", " 16 - 18 ", "16-16", "7.5-30"])
def test_ranges_that_are_served(duration: str) -> None:
    min_s, max_s = GenerateBody.model_validate({"url": "u", "duration": duration}).range_s(30)
    assert 0 < min_s <= max_s <= 30


def test_a_prompt_leaves_room_for_music() -> None:
    with pytest.raises(InvalidInput, match="promptLength is 18 s"):
        GenerateBody.model_validate({"url": "u", "promptLength": 18}).range_s(30)


@given(data=st.binary(min_size=1, max_size=2000), wrapped=st.booleans())
def test_base64_comes_back_as_it_was(data: bytes, wrapped: bool) -> None:
    """With and without the prefix of a data URL, with and without line breaks."""
    text = base64.encodebytes(data).decode() if wrapped else base64.b64encode(data).decode()
    assert decode_base64(text, "audio") == data
    assert decode_base64("data:audio/mp3;base64," + text, "audio") == data
    assert decode_base64("data:audio/webm;codecs=opus;base64," + text, "audio") == data


@pytest.mark.parametrize("text", ["not base64!", "AAA", "ünïcode", "data:audio/wav,raw", "data:audio/wav;base64,*"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="audio is not base64"):
        decode_base64(text, "audio")


@pytest.mark.parametrize("text", ["", "data:audio/wav;base64,", " \n"])
def test_empty_audio_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="audio is empty"):
        decode_base64(text, "audio")
