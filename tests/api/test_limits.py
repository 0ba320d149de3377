"""Every limit at its edge: the last that is served, the first that is not, and the code that says so."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from gary.api.json_body import DEPTH_MAX, STRUCTURE_MAX
from gary.api.schemas import MODEL_MAX, URL_MAX
from gary.config import Limits
from gary.links import LENGTH_MAX
from gary.tasks.task import Status
from tests.api.conftest import Api, OpenApi, wav64

JSON = {"Content-Type": "application/json"}
VIDEO = "https://www.youtube.com/watch?v=dQw4w9WgXcQ"


def _is_error(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert set(answer.json()) == {"error", "code"}
    assert len(answer.json()["error"]) < 1000


async def _post(api: Api, path: str, **body: object) -> httpx.Response:
    return await api.http.post(path, json=body)


@pytest.mark.parametrize("declared", [True, False])
async def test_body_bytes(open_api: OpenApi, declared: bool) -> None:
    """A body of exactly the limit is read; a byte more is not, whether its length is declared or found out."""
    body = json.dumps({"url": VIDEO}).encode()

    def content(data: bytes) -> Any:
        async def parts() -> Any:
            yield data[:10]
            yield data[10:]

        return data if declared else parts()

    async with open_api(Limits(body_bytes=len(body))) as api:
        assert (await api.http.post("/generate", content=content(body), headers=JSON)).status_code == 200
        _is_error(await api.http.post("/generate", content=content(body + b" "), headers=JSON), 413, "body_too_large")


async def test_clip_max_s(open_api: OpenApi) -> None:
    """Uploads of exactly the limit are taken on every route that takes audio; a tenth of a second more is refused."""
    async with open_api(Limits(clip_max_s=2.0)) as api:
        task_id = (await api.generate()).json()["task_id"]
        for audio, status in ((wav64(2.0), 200), (wav64(2.1), 413), (wav64(6.0), 413)):
            for answer in (
                await _post(api, "/continue", task_id=task_id, audio=audio, prompt_duration=1),
                await _post(api, "/crop-audio", audioData=audio, start=0, end=1),
                await _post(api, "/combine-audio", audioClips=[wav64(1), audio]),
                await _post(api, "/export-to-mp3", audioData=audio),
            ):
                assert answer.status_code == status, answer.text
                if status != 200:
                    _is_error(answer, 413, "too_long")
        assert api.begun == [task_id, task_id]


async def test_decoded_bytes(open_api: OpenApi) -> None:
    """One clip, and several joined, are bounded by what they become in memory; 32 kHz mono is 128 kB a second."""
    async with open_api(Limits(decoded_bytes=256_000)) as api:
        assert (await _post(api, "/export-to-mp3", audioData=wav64(2.0))).status_code == 200
        _is_error(await _post(api, "/export-to-mp3", audioData=wav64(2.1)), 413, "too_long")


async def test_clips(open_api: OpenApi) -> None:
    async with open_api(Limits(clips=2)) as api:
        assert (await _post(api, "/combine-audio", audioClips=[wav64(0.2)] * 2)).status_code == 200
        _is_error(await _post(api, "/combine-audio", audioClips=[wav64(0.2)] * 3), 400, "too_many_clips")


async def test_clip_min_s(open_api: OpenApi) -> None:
    async with open_api(Limits(clip_min_s=1.0)) as api:
        assert (await _post(api, "/export-to-mp3", audioData=wav64(1.0))).status_code == 200
        _is_error(await _post(api, "/export-to-mp3", audioData=wav64(0.9)), 400, "too_short")


async def test_output_max_s(open_api: OpenApi) -> None:
    async with open_api(Limits(output_max_s=20.0)) as api:
        assert (await api.generate(duration="16-20")).status_code == 200
        _is_error(await api.generate(duration="16-20.1"), 400, "invalid_input")


async def test_source_duration_s(open_api: OpenApi) -> None:
    """Where no served source reaches, none is looked for."""
    async with open_api(Limits(source_duration_s=100.0)) as api:
        assert (await api.generate(currentTime="100")).status_code == 200
        _is_error(await api.generate(currentTime=100.5), 400, "past_end")


async def test_unfinished_tasks(open_api: OpenApi) -> None:
    """As many as may wait are accepted; then 429 says when to come again; one that ends makes room for one."""
    async with open_api(Limits(unfinished_tasks=2)) as api:
        first = (await api.generate()).json()["task_id"]
        assert (await api.generate()).status_code == 200
        refused = await api.generate()
        _is_error(refused, 429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert len(api.begun) == 2
        await api.store.cancel(first)
        assert (await api.generate()).status_code == 200


async def test_a_finished_task_continues_only_where_there_is_room(open_api: OpenApi) -> None:
    """It is one more in the queue; refused, it keeps what it has. An unfinished one takes its own place."""
    async with open_api(Limits(unfinished_tasks=1)) as api:
        first = (await api.generate()).json()["task_id"]
        assert (await _post(api, "/continue", task_id=first, audio=wav64(1), prompt_duration=0.5)).status_code == 200
        await api.store.cancel(first)
        assert (await api.generate()).status_code == 200
        answer = await _post(api, "/continue", task_id=first, audio=wav64(1), prompt_duration=0.5)
        _is_error(answer, 429, "queue_full")
        assert (await api.store.get(first)).status == Status.CANCELLED


async def test_length_of_a_url(api: Api) -> None:
    """Links up to LENGTH_MAX are read, 10 kB of one are answered with 400 as anything between."""
    longest = f"{VIDEO}&x=".ljust(LENGTH_MAX, "x")
    assert (await api.generate(url=longest)).status_code == 200
    _is_error(await api.generate(url=longest + "x"), 400, "unsupported_url")
    _is_error(await api.generate(url="x" * URL_MAX), 400, "unsupported_url")
    _is_error(await api.generate(url="x" * (URL_MAX + 1)), 400, "invalid_input")
    _is_error(await api.generate(url=VIDEO + "&x=" * 3400), 400, "invalid_input")


async def test_length_of_a_models_name(api: Api) -> None:
    _is_error(await api.generate(model="m" * MODEL_MAX), 400, "unknown_model")
    _is_error(await api.generate(model="m" * (MODEL_MAX + 1)), 400, "invalid_input")


def _nested(depth: int) -> bytes:
    """A body that would be served but for a key that nobody reads, so many levels deep in all."""
    inner = "[" * (depth - 1) + "]" * (depth - 1)
    return f'{{"url": "{VIDEO}", "x": {inner}}}'.encode()


async def test_nesting(api: Api) -> None:
    """Even in keys that nobody reads; no depth costs more than a refusal."""
    assert (await api.http.post("/generate", content=_nested(DEPTH_MAX), headers=JSON)).status_code == 200
    for depth in (DEPTH_MAX + 1, 900, 5000):
        _is_error(await api.http.post("/generate", content=_nested(depth), headers=JSON), 400, "json_too_deep")
    _is_error(await api.http.post("/generate", content=_nested(100_000), headers=JSON), 400, "json_too_complex")


async def test_size_of_structure(api: Api) -> None:
    """A megabyte of empty lists would become twenty of them in memory."""
    body = {"url": VIDEO, "x": [0] * (STRUCTURE_MAX - 3)}  # a brace, a bracket, the comma between the keys
    assert (await api.http.post("/generate", json=body)).status_code == 200
    body["x"] = [0] * STRUCTURE_MAX
    _is_error(await api.http.post("/generate", json=body), 400, "json_too_complex")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"url": "\xff"}', b'{"url": "x", "x": NaN}', b'{"url": "x", "x": -Infinity}', b"1" * 5000, b"{}{}"],
    ids=range(7),
)
async def test_what_is_no_json(api: Api, body: bytes) -> None:
    answer = await api.http.post("/generate", content=body, headers=JSON)
    _is_error(answer, 400, "not_json" if body else "invalid_input")


async def test_an_error_quotes_little_of_what_it_was_sent(api: Api) -> None:
    """A megabyte in the wrong place is not repeated, as text, as JSON or as bytes of another type."""
    blob = "A" * 1_000_000
    _is_error(await _post(api, "/combine-audio", audioClips=blob), 400, "invalid_input")
    _is_error(await _post(api, "/export-to-mp3", audioData=[blob]), 400, "invalid_input")
    _is_error(await api.http.post("/export-to-mp3", content=blob), 400, "invalid_input")
    _is_error(await api.http.post("/export-to-mp3", content=f'{{"{blob}": 1}}', headers=JSON), 400, "invalid_input")
