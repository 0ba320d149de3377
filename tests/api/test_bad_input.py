"""Whatever a stranger sends: 4xx, `{"error": sentence}`, nothing lost, never 500."""

import base64
import json
from typing import Any

import pytest

from gary.audio.files import encode_wav
from tests.api.conftest import Api, tone, wav64

BAD_URLS = [
    "",
    "   ",
    "not a link",
    "https://example.com/song.mp3",
    "https://www.youtube.com/",
    "https://www.youtube.com/playlist?list=PLx",
    "https://youtube.com.evil.example/watch?v=dQw4w9WgXcQ",
    "https://evil.example/?u=youtube.com/watch?v=dQw4w9WgXcQ",
    "ftp://www.youtube.com/watch?v=dQw4w9WgXcQ",
    "file:///etc/passwd",
    "http://127.0.0.1:9/x.wav",
    "https://user:pass@www.youtube.com/watch?v=dQw4w9WgXcQ",
    "https://www.youtube.com/watch?v=short",
    "https://www.youtube.com/watch?v=" + "x" * 5000,
]


def _is_clear_error(answer: Any, status: int = 400) -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["error"]
    assert len(body["error"]) < 1000


@pytest.mark.parametrize("url", BAD_URLS, ids=range(len(BAD_URLS)))
async def test_urls(api: Api, url: str) -> None:
    _is_clear_error(await api.generate(url=url))
    assert api.begun == []


@pytest.mark.parametrize(
    "changes",
    [
        {"currentTime": -1},
        {"currentTime": "NaN"},
        {"currentTime": "soon"},
        {"currentTime": [1]},
        {"currentTime": "1e999"},
        {"duration": "18-16"},
        {"duration": "0-0"},
        {"duration": "16-31"},
        {"duration": "16"},
        {"duration": 16},
        {"duration": "a-b"},
        {"promptLength": 0},
        {"promptLength": "-6"},
        {"promptLength": 18},
        {"promptLength": "NaN"},
        {"model": "someone/else"},
        {"model": "../../etc"},
        {"model": 5},
        {"url": 5},
        {"url": ["x"]},
    ],
    ids=str,
)
async def test_generate_fields(api: Api, changes: dict[str, Any]) -> None:
    _is_clear_error(await api.generate(**changes))
    assert api.begun == []


async def test_an_error_names_what_would_be_right(api: Api) -> None:
    """What was wrong with which value, and what would be right."""
    model = (await api.generate(model="someone/else")).json()["error"]
    assert "'someone/else'" in model
    assert "facebook/musicgen-small" in model
    assert "16-18" in (await api.generate(duration="soon")).json()["error"]
    assert "currentTime" in (await api.generate(currentTime=-1)).json()["error"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"text"', b"5", b'{"url": ', b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}']
)
@pytest.mark.parametrize("path", ["/generate", "/continue", "/crop-audio", "/combine-audio", "/export-to-mp3"])
async def test_bodies_of_the_wrong_shape(api: Api, path: str, body: bytes) -> None:
    _is_clear_error(await api.http.post(path, content=body, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize("task_id", ["x", "0" * 23, "0" * 25, "z" * 24, "%00", "..%2f..", "é" * 24])
@pytest.mark.parametrize("path", ["tasks", "fetch-result", "progress"])
async def test_malformed_ids(api: Api, path: str, task_id: str) -> None:
    answer = await api.http.get(f"/{path}/{task_id}")
    _is_clear_error(answer, 404 if "%2f" in task_id else 400)


@pytest.mark.parametrize("path", ["tasks", "fetch-result", "progress"])
async def test_unknown_ids(api: Api, path: str) -> None:
    _is_clear_error(await api.http.get(f"/{path}/{'0' * 24}"), 404)


BAD_AUDIO = {
    "empty": "",
    "no base64": "§§§",
    "no audio": base64.b64encode(b"this is text, and no audio " * 50).decode(),
    "too short": wav64(0.05),
    "broken": base64.b64encode(encode_wav(tone(1))[:50]).decode(),
    "a playlist": base64.b64encode(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n").decode(),
    "no string": 5,
    "null": None,
}


@pytest.mark.parametrize("audio", BAD_AUDIO.values(), ids=BAD_AUDIO.keys())
async def test_audio(api: Api, audio: Any) -> None:
    """On every route that takes audio; a task that was to be continued is as it was."""
    task_id = (await api.generate()).json()["task_id"]
    before = await api.store.get(task_id)
    _is_clear_error(await api.http.post("/continue", json={"task_id": task_id, "audio": audio}))
    _is_clear_error(await api.http.post("/crop-audio", json={"audioData": audio, "start": 0, "end": 1}))
    _is_clear_error(await api.http.post("/combine-audio", json={"audioClips": [wav64(1), audio]}))
    _is_clear_error(await api.http.post("/export-to-mp3", json={"audioData": audio}))
    assert await api.store.get(task_id) == before
    assert api.begun == [task_id]


@pytest.mark.parametrize(
    ("start", "end"), [(5, 2), (2, 2), (11, 12), (-1, 2), ("NaN", 2), (0, "inf"), (0, 0), (0, None), ("a", 2)]
)
async def test_crop_ranges(api: Api, start: Any, end: Any) -> None:
    _is_clear_error(await api.http.post("/crop-audio", json={"audioData": wav64(10), "start": start, "end": end}))


@pytest.mark.parametrize("clips", [[], None, "x", [5], [[]], {}])
async def test_clip_lists(api: Api, clips: Any) -> None:
    _is_clear_error(await api.http.post("/combine-audio", json={"audioClips": clips}))


async def test_too_many_clips(api: Api) -> None:
    _is_clear_error(await api.http.post("/combine-audio", json={"audioClips": [wav64(0.2)] * 4}))


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_duration": 0},
        {"prompt_duration": 30},
        {"prompt_duration": "NaN"},
        {"prompt_duration": -2},
        {"model": "someone/else"},
        {"task_id": "zz"},
        {"task_id": None},
    ],
    ids=str,
)
async def test_continue_fields(api: Api, changes: dict[str, Any]) -> None:
    task_id = (await api.generate()).json()["task_id"]
    before = await api.store.get(task_id)
    _is_clear_error(await api.http.post("/continue", json={"task_id": task_id, "audio": wav64(2)} | changes))
    assert await api.store.get(task_id) == before


async def test_continue_of_an_unknown_task(api: Api) -> None:
    _is_clear_error(await api.http.post("/continue", json={"task_id": "0" * 24, "audio": wav64(2)}), 404)


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit(api: Api, declared: bool) -> None:
    """413, whether its length is declared or found out."""
    blob = json.dumps({"audioData": "A" * 2_000_000}).encode()

    async def parts() -> Any:
        yield blob[:1_000_000]
        yield blob[1_000_000:]

    content: Any = blob if declared else parts()
    answer = await api.http.post("/export-to-mp3", content=content, headers={"Content-Type": "application/json"})
    _is_clear_error(answer, 413)
    assert "2000000" in answer.json()["error"]


async def test_errors_carry_the_cors_header(api: Api) -> None:
    """Else a browser's page could not read them."""
    blob = b"A" * 2_000_001
    for answer in (
        await api.http.post("/export-to-mp3", content=blob, headers={"Origin": "https://x.example"}),
        await api.http.post("/generate", json={}, headers={"Origin": "https://x.example"}),
        await api.http.get("/nowhere", headers={"Origin": "https://x.example"}),
    ):
        assert answer.status_code >= 400
        assert answer.headers["access-control-allow-origin"] == "*"
