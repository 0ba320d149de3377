"""Files that come with a request, and files that are cut and joined at once."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from gary.api.v1.uploads import TASK_PART_MAX_BYTES, shown_name
from gary.audio.files import encode_wav
from gary.config import Limits
from gary.tasks.music import MusicJob, UploadSource
from tests.api.conftest import Api, OpenApi, tone
from tests.api.music import VIDEO
from tests.api.test_v1_tasks import is_problem

WAV = encode_wav(tone(1.0, 8_000))
UPLOAD = {"source": {"upload": True}, "length": {"seconds": 2.0}}


async def _send(api: Api, task: Any, *files: tuple[str, Any], **headers: str) -> httpx.Response:
    parts = [("task", (None, json.dumps(task))), *files]
    return await api.http.post("/v1/tasks", files=parts, headers=headers)


async def test_a_file_beside_the_json(api: Api) -> None:
    """It is stored with the task bit for bit, under the name that it had."""
    answer = await _send(api, UPLOAD, ("file", ("../songs/loop.wav", WAV)))
    assert answer.status_code == 202, answer.text
    task = await api.store.get(answer.json()["id"])
    assert await api.store.read_upload(task) == WAV
    assert isinstance(task.job, MusicJob)
    assert task.job.source == UploadSource(name="loop.wav")
    assert task.job.side == "tail"
    assert answer.json()["request"]["source"] == {"upload": True, "name": "loop.wav", "start_s": 0.0}


async def test_the_json_may_be_a_blob(api: Api) -> None:
    """As browsers send a part that has a type of its own."""
    parts: Any = [("task", ("blob", json.dumps(UPLOAD), "application/json")), ("file", ("a.wav", WAV, "audio/wav"))]
    assert (await api.http.post("/v1/tasks", files=parts)).status_code == 202


async def test_the_json_may_come_without_a_file(api: Api) -> None:
    assert (await _send(api, {"source": {"url": VIDEO}})).status_code == 202


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("loop.wav", "loop.wav"),
        ("C:\\music\\loop.wav", "loop.wav"),
        ("../../etc/passwd", "passwd"),
        ("a\x00b\nc\u202ed.wav", "abcd.wav"),
        ("x" * 200, "x" * 120),
        ("  ", None),
        ("", None),
        (None, None),
        ("küche.wav", "küche.wav"),
    ],
)
def test_names_are_fit_to_be_shown(name: str | None, shown: str | None) -> None:
    assert shown_name(name) == shown


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([("file", ("a.wav", WAV))], "bad_multipart"),
        ([("task", (None, "{}")), ("task", ("b", "{}"))], "bad_multipart"),
        ([("task", (None, json.dumps(UPLOAD))), ("file", ("a", WAV)), ("file", ("b", WAV))], "bad_multipart"),
        ([("task", ("b", json.dumps(UPLOAD))), ("other", ("a", WAV))], "bad_multipart"),
        ([("task", (None, " " * (TASK_PART_MAX_BYTES + 1)))], "bad_multipart"),
        ([("task", ("b", " " * (TASK_PART_MAX_BYTES + 1)))], "bad_multipart"),
        ([("task", ("b", json.dumps(UPLOAD))), ("file", (None, "text"))], "bad_multipart"),
        ([("task", (None, "{"))], "not_json"),
        ([("task", (None, "[" * 40 + "]" * 40))], "json_too_deep"),
        ([("task", (None, json.dumps(UPLOAD)))], "no_upload"),
        ([("task", (None, json.dumps({"source": {"url": VIDEO}}))), ("file", ("a", WAV))], "unexpected_upload"),
        ([("task", (None, json.dumps(UPLOAD))), ("file", ("a", b"no audio" * 100))], "not_audio"),
        ([("task", (None, json.dumps(UPLOAD))), ("file", ("a", b""))], "empty"),
    ],
)
async def test_parts_that_are_not_meant(api: Api, parts: Any, code: str) -> None:
    """400, and no task."""
    is_problem(await api.http.post("/v1/tasks", files=parts), 400, code)
    assert api.begun == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=a", b"--b\r\n\r\n"),
        ("multipart/form-data; boundary=a", b"--a\r\nbroken"),
        ("multipart/form-data; boundary=a", b"--a\r\nContent-Type: x\r\n\r\n1\r\n--a--"),
    ],
)
async def test_a_broken_body(api: Api, content_type: str, body: bytes) -> None:
    answer = await api.http.post("/v1/tasks", content=body, headers={"Content-Type": content_type})
    is_problem(answer, 400, "bad_multipart")


async def test_a_start_within_the_file(api: Api) -> None:
    """The cursor has to lie in it."""
    task = UPLOAD | {"prompt": {"side": "cursor"}}
    inside = await _send(api, task | {"source": {"upload": True, "start_s": 0.5}}, ("file", ("a", WAV)))
    assert inside.status_code == 202
    beyond = await _send(api, task | {"source": {"upload": True, "start_s": 1.0}}, ("file", ("a", WAV)))
    is_problem(beyond, 400, "past_end")


async def test_the_file_is_part_of_the_request(api: Api) -> None:
    """Under one key, the same file again is the same task; another file is another request."""
    key = {"Idempotency-Key": "u"}
    first = await _send(api, UPLOAD, ("file", ("a.wav", WAV)), **key)
    again = await _send(api, UPLOAD, ("file", ("b.wav", WAV)), **key)
    assert first.json()["id"] == again.json()["id"]
    other = await _send(api, UPLOAD, ("file", ("a.wav", WAV + b"x")), **key)
    is_problem(other, 422, "idempotency_mismatch")


async def test_files_have_bounds(open_api: OpenApi) -> None:
    """In bytes, whole body counted, and in seconds."""
    async with open_api(Limits(body_bytes=20_000, clip_max_s=0.9)) as api:
        is_problem(await _send(api, UPLOAD, ("file", ("a", WAV))), 413, "too_long")
        is_problem(await _send(api, UPLOAD, ("file", ("a", WAV * 2))), 413, "body_too_large")


@pytest.mark.parametrize("form", ["wav", "flac"])
async def test_crop_is_exact(api: Api, form: str) -> None:
    """Each sample of the stretch, and none beside it."""
    answer = await api.http.post(f"/v1/audio/crop?start_s=0.25&end_s=0.75&format={form}", content=WAV)
    assert answer.headers["content-type"] == f"audio/{form}"
    cut, rate_hz = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    whole, _ = soundfile.read(io.BytesIO(WAV), dtype="int16")
    assert rate_hz == 8_000
    np.testing.assert_array_equal(cut, whole[2_000:6_000])


async def test_crop_to_the_end(api: Api) -> None:
    answer = await api.http.post("/v1/audio/crop?start_s=0.5", content=WAV)
    assert soundfile.info(io.BytesIO(answer.content)).frames == 4_000


async def test_join_is_exact(api: Api) -> None:
    """Clips in the order in which they came."""
    other = encode_wav(tone(0.5, 8_000))
    parts = [("file", ("a", WAV)), ("file", ("b", other)), ("file", ("c", WAV))]
    answer = await api.http.post("/v1/audio/join", files=parts)
    assert answer.status_code == 200, answer.text
    joined, _ = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    clips = [soundfile.read(io.BytesIO(data), dtype="int16")[0] for data in (WAV, other, WAV)]
    assert len(joined) == sum(map(len, clips))


@pytest.mark.parametrize(("form", "media_type"), [("mp3", "audio/mpeg"), ("opus", "audio/ogg")])
async def test_lossy_formats_say_what_they_are(api: Api, form: str, media_type: str) -> None:
    answer = await api.http.post(f"/v1/audio/crop?format={form}", content=WAV)
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "body", "status", "code"),
    [
        ("start_s=1", WAV, 400, "past_end"),
        ("start_s=0.5&end_s=0.4", WAV, 400, "bad_range"),
        ("start_s=x", WAV, 400, "invalid_input"),
        ("end_s=inf", WAV, 400, "invalid_input"),
        ("format=aac", WAV, 400, "invalid_input"),
        ("", b"", 400, "empty"),
        ("", b"x" * 1000, 400, "not_audio"),
        ("", b"x" * 2_000_001, 413, "body_too_large"),
    ],
)
async def test_what_cannot_be_cropped(api: Api, query: str, body: bytes, status: int, code: str) -> None:
    is_problem(await api.http.post(f"/v1/audio/crop?{query}", content=body), status, code)


async def test_what_cannot_be_joined(api: Api) -> None:
    is_problem(await api.http.post("/v1/audio/join", content=WAV), 400, "bad_multipart")
    is_problem(await api.http.post("/v1/audio/join", files=[("clip", ("a", WAV))]), 400, "bad_multipart")
    is_problem(await api.http.post("/v1/audio/join", files=[("file", (None, "text"))]), 400, "bad_multipart")
    is_problem(await api.http.post("/v1/audio/join", files=[("file", ("a", WAV))] * 4), 400, "too_many_clips")
    is_problem(await api.http.post("/v1/audio/join", files=[("file", ("a", WAV))] * 9), 400, "bad_multipart")
