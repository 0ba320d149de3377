"""Live audio: what a listener has received whole is the stored file, whatever happened to the task meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from gary.api.v1.live import wav_header
from gary.audio.files import encode_wav
from gary.errors import MediaError
from gary.tasks.music import Sheet
from gary.tasks.task import Claim
from tests.api.conftest import Api, tone
from tests.api.music import FRAME_BYTES, SHEET, add, begun, completed, created, finish, is_polling, over_http, pcm, wav
from tests.api.test_v1_tasks import is_problem

HALF = SHEET.length_samples // 2


class Ear:
    """What has come so far."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.heard = b""
        self._parts = answer.aiter_raw()

    async def hear(self, size_bytes: int) -> None:
        """Waits until so many bytes have come."""
        async with asyncio.timeout(10):
            while len(self.heard) < size_bytes:
                self.heard += await anext(self._parts)

    async def rest(self) -> bytes:
        async with asyncio.timeout(10):
            async for part in self._parts:
                self.heard += part
        return self.heard


@asynccontextmanager
async def _listening(http: httpx.AsyncClient, task_id: str, take: int = 0) -> AsyncIterator[Ear]:
    async with http.stream("GET", f"/v1/tasks/{task_id}/audio?live=1&take={take}") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-length"] == str(len(wav(1)))
        assert (answer.headers["content-type"], answer.headers["cache-control"]) == ("audio/wav", "no-store")
        yield Ear(answer)


async def test_what_is_heard_is_what_is_stored(api: Api) -> None:
    """As it is made: each chunk comes before the next is there, and the whole is the file bit for bit."""
    task_id = await created(api, takes=2)
    claim = await begun(api.store, task_id)
    async with over_http(api) as http, _listening(http, task_id) as first, _listening(http, task_id, take=1) as second:
        for start in range(0, SHEET.length_samples, 2_000):
            await add(api.store, claim, 1, start, start + 2_000)
            await add(api.store, claim, 2, start, start + 2_000, take=1)
            made = 44 + min(start + 2_000, SHEET.length_samples - 1) * FRAME_BYTES
            await first.hear(made)
            assert len(first.heard) == made
        await finish(api.store, claim, 1, 2)
        assert await first.rest() == wav(1)
        assert await second.rest() == wav(2)


async def test_the_answer_waits_for_the_first_note(api: Api) -> None:
    """Who asks while the task is queued is answered when its length is known; who comes late hears it all."""
    task_id = await created(api)
    async with over_http(api) as http:
        early = asyncio.create_task(http.get(f"/v1/tasks/{task_id}/audio?live=1"))
        claim = await begun(api.store, task_id)
        await add(api.store, claim, 1, 0, HALF)
        async with _listening(http, task_id) as late:
            await late.hear(44 + HALF * FRAME_BYTES)
            await finish(api.store, claim, 1)
            assert await late.rest() == wav(1)
        assert (await early).content == wav(1)


async def test_of_a_completed_task_it_is_the_file(api: Api) -> None:
    """With ranges and all, and with a tag."""
    task_id = await completed(api, 1)
    url = f"/v1/tasks/{task_id}/audio?live=1"
    whole = await api.http.get(url)
    assert whole.content == wav(1)
    assert whole.headers["etag"] == (await api.http.get(f"/v1/tasks/{task_id}/audio")).headers["etag"]
    assert (await api.http.get(url, headers={"Range": "bytes=44-"})).content == pcm(1)


async def test_another_attempt_that_makes_the_same_is_followed(api: Api) -> None:
    """From where the listener is, though the new attempt cuts its chunks elsewhere."""
    task_id = await created(api)
    claim = await begun(api.store, task_id)
    async with over_http(api) as http, _listening(http, task_id) as ear:
        await add(api.store, claim, 1, 0, HALF)
        await ear.hear(44 + HALF * FRAME_BYTES)
        await api.store.release(claim, MediaError("once more", "not_audio"))
        again = await _claimed_again(api, task_id)
        await api.store.begin_music(again, SHEET)
        await add(api.store, again, 1, 0, 3_000)
        await add(api.store, again, 1, 3_000, HALF + 777)
        await ear.hear(44 + (HALF + 777) * FRAME_BYTES)
        await finish(api.store, again, 1)
        assert await ear.rest() == wav(1)


async def test_an_attempt_that_is_over_before_it_is_heard(api: Api) -> None:
    """Its file is compared with what was sent, and goes on from there."""
    task_id = await created(api)
    claim = await begun(api.store, task_id)
    async with over_http(api) as http, _listening(http, task_id) as ear:
        await add(api.store, claim, 1, 0, HALF)
        await ear.hear(44 + HALF * FRAME_BYTES)
        await api.store.release(claim, MediaError("once more", "not_audio"))
        await finish(api.store, await _begun_again(api, task_id), 1)
        assert await ear.rest() == wav(1)


@pytest.mark.parametrize("over", [False, True])
async def test_an_attempt_that_makes_other_music_is_not_followed(api: Api, over: bool) -> None:
    """The connection breaks: half of one and half of another would be neither."""
    task_id = await created(api)
    claim = await begun(api.store, task_id)
    async with over_http(api) as http, _listening(http, task_id) as ear:
        await add(api.store, claim, 1, 0, HALF)
        await ear.hear(44 + HALF * FRAME_BYTES)
        await api.store.release(claim, MediaError("once more", "not_audio"))
        again = await _begun_again(api, task_id)
        if over:
            await finish(api.store, again, 2)
        else:
            await add(api.store, again, 2, 0, HALF)
        with pytest.raises(httpx.RemoteProtocolError):
            await ear.rest()


async def test_an_attempt_of_another_length_is_not_followed(api: Api) -> None:
    """The header has said how long it would be."""
    task_id = await created(api)
    claim = await begun(api.store, task_id)
    async with over_http(api) as http, _listening(http, task_id) as ear:
        await ear.hear(44)
        await api.store.release(claim, MediaError("once more", "not_audio"))
        shorter = SHEET.model_copy(update={"length_samples": HALF})
        await api.store.begin_music(await _claimed_again(api, task_id), shorter)
        with pytest.raises(httpx.RemoteProtocolError):
            await ear.rest()


async def test_a_chunk_that_was_lost(api: Api) -> None:
    """Nothing is heard beyond the gap until the file is there, and then all of it."""
    task_id = await created(api)
    claim = await begun(api.store, task_id)
    async with over_http(api) as http, _listening(http, task_id) as ear:
        await add(api.store, claim, 1, 0, 1_000)
        await add(api.store, claim, 1, 2_000, 3_000)
        await ear.hear(44 + 1_000 * FRAME_BYTES)
        await finish(api.store, claim, 1)
        assert await ear.rest() == wav(1)


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_a_task_that_fails_breaks_the_connection(api: Api, how: str) -> None:
    """Even if every sample was there: nobody takes what will not be stored for whole."""
    task_id = await created(api)
    claim = await begun(api.store, task_id)
    async with over_http(api) as http, _listening(http, task_id) as ear:
        await add(api.store, claim, 1, 0, SHEET.length_samples)
        await ear.hear(44 + (SHEET.length_samples - 1) * FRAME_BYTES)
        if how == "failed":
            await api.store.fail(claim, MediaError("no", "not_audio"))
        else:
            await api.store.cancel(task_id)
        with pytest.raises(httpx.RemoteProtocolError):
            await ear.rest()


async def test_a_task_that_fails_before_it_began(api: Api) -> None:
    """Is answered as an error: nothing was sent yet."""
    task_id = await created(api)
    async with over_http(api) as http:
        asking = asyncio.create_task(http.get(f"/v1/tasks/{task_id}/audio?live=1"))
        claim = await api.store.claim(task_id, "worker")
        assert claim is not None
        await api.store.fail(claim, MediaError("nothing to hear", "not_audio"))
        is_problem(await asking, 409, "task_failed")


@pytest.mark.parametrize("is_queued", [True, False])
async def test_a_listener_that_hangs_up_frees_everything(api: Api, is_queued: bool) -> None:
    """Before the first byte as well as in the middle."""
    task_id = await created(api)
    if not is_queued:
        await begun(api.store, task_id)
    async with over_http(api) as http:
        asking = asyncio.create_task(http.get(f"/v1/tasks/{task_id}/audio?live=1"))
        await _until_polling(True)
        asking.cancel()
        await _until_polling(False)


async def test_head_of_live_audio(api: Api) -> None:
    """Answers at once, whatever the task waits for."""
    task_id = await created(api)
    answer = await api.http.head(f"/v1/tasks/{task_id}/audio?live=1")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"", "audio/wav")


@pytest.mark.parametrize(("channels", "rate_hz"), [(1, 32_000), (2, 44_100)])
def test_the_header_is_the_stored_files(channels: int, rate_hz: int) -> None:
    """The one that every file of ours begins with."""
    stored = encode_wav(tone(0.5, rate_hz, channels))
    sheet = Sheet(
        sample_rate_hz=rate_hz, channels=channels, source_samples=0, length_samples=rate_hz // 2, prompt_s=0.0
    )
    assert wav_header(sheet) == stored[:44]


async def _claimed_again(api: Api, task_id: str) -> Claim:
    async with asyncio.timeout(10):
        while (claim := await api.store.claim(task_id, "another worker")) is None:  # noqa: ASYNC110  its back-off
            await asyncio.sleep(0.02)
    return claim


async def _begun_again(api: Api, task_id: str) -> Claim:
    claim = await _claimed_again(api, task_id)
    await api.store.begin_music(claim, SHEET)
    return claim


async def _until_polling(polling: bool) -> None:
    async with asyncio.timeout(10):
        while polling != is_polling():  # noqa: ASYNC110  the application tells nobody
            await asyncio.sleep(0.01)


async def test_a_range_is_heard_as_it_is_made(api: Api) -> None:
    """From any byte on, or between two; so a browser's audio element can seek in what is there."""
    task_id = await created(api)
    claim = await begun(api.store, task_id)
    await add(api.store, claim, 1, 0, HALF)
    url, whole = f"/v1/tasks/{task_id}/audio?live=1", wav(1)
    async with over_http(api) as http:
        part = await http.get(url, headers={"Range": "bytes=40-103"})
        assert (part.status_code, part.content) == (206, whole[40:104])
        assert part.headers["content-range"] == f"bytes 40-103/{len(whole)}"
        async with http.stream("GET", url, headers={"Range": "bytes=1001-"}) as answer:
            ear = Ear(answer)
            await ear.hear(44 + HALF * FRAME_BYTES - 1001)
            await finish(api.store, claim, 1)
            assert await ear.rest() == whole[1001:]
        assert (answer.status_code, answer.headers["content-length"]) == (206, str(len(whole) - 1001))
