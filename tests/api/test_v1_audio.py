"""A take as a file: ranges, tags, formats; and the small parts that this is made of."""

from __future__ import annotations

import asyncio
import hashlib
import io

import numpy as np
import pytest
import soundfile

from gary.api.v1.conversions import Conversions
from gary.api.v1.ranges import Unsatisfiable, chosen_range, is_current, names_tag
from gary.tasks.task import Status
from tests.api.conftest import Api
from tests.api.music import SHEET, completed, create, created, pcm, wav
from tests.api.test_v1_tasks import is_problem

SIZE = 44 + len(pcm(1))


async def test_a_take_as_it_is_stored(api: Api) -> None:
    """The very bytes whose hash the task names, with a type, a length and a name."""
    task_id = await completed(api, 1, 2)
    takes = (await api.http.get(f"/v1/tasks/{task_id}")).json()["takes"]
    for number, seed in ((0, 1), (1, 2)):
        answer = await api.http.get(takes[number]["audio"])
        assert answer.content == wav(seed)
        assert hashlib.sha256(answer.content).hexdigest() == takes[number]["wav_sha256"]
        assert answer.headers["content-type"] == "audio/wav"
        assert answer.headers["content-length"] == str(SIZE)
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["content-disposition"] == f'inline; filename="gary-{task_id}-{number}.wav"'
    is_problem(await api.http.get(f"/v1/tasks/{task_id}/audio?take=2"), 400, "unknown_take")
    is_problem(await api.http.get(f"/v1/tasks/{task_id}/audio?take=8"), 400, "invalid_input")


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-", 0, SIZE - 1),
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        ("bytes=60000-999999", 60_000, SIZE - 1),
        ("bytes=-100", SIZE - 100, SIZE - 1),
        ("bytes=-999999", 0, SIZE - 1),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE - 1),
    ],
)
async def test_ranges(api: Api, asked: str, first: int, last: int) -> None:
    """Exactly those bytes, of the stored file and of one that was converted."""
    task_id = await completed(api, 1)
    answer = await api.http.get(f"/v1/tasks/{task_id}/audio", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
    assert answer.content == wav(1)[first : last + 1]
    flac = f"/v1/tasks/{task_id}/audio?format=flac"
    whole = await api.http.get(flac)
    part = await api.http.get(flac, headers={"Range": "bytes=5-24"})
    assert (part.status_code, part.content) == (206, whole.content[5:25])


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=-0", f"bytes={SIZE + 5}-{SIZE + 9}"])
async def test_a_range_beyond_the_end(api: Api, asked: str) -> None:
    task_id = await completed(api, 1)
    answer = await api.http.get(f"/v1/tasks/{task_id}/audio", headers={"Range": asked})
    is_problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize("asked", ["bytes=5-4", "bytes=-", "bytes=0-1,4-5", "seconds=0-1", "bytes", "", "bytes=a-b"])
async def test_a_range_that_is_none_is_ignored(api: Api, asked: str) -> None:
    task_id = await completed(api, 1)
    answer = await api.http.get(f"/v1/tasks/{task_id}/audio", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, wav(1))


@pytest.mark.parametrize(
    ("header", "size_bytes", "chosen"),
    [(None, 10, None), ("bytes=0-4", 10, range(5)), ("bytes=-3", 10, range(7, 10)), (" bytes=9- ", 10, range(9, 10))],
)
def test_chosen_ranges(header: str | None, size_bytes: int, chosen: range | None) -> None:
    assert chosen_range(header, size_bytes) == chosen


def test_an_empty_file_has_no_ranges() -> None:
    with pytest.raises(Unsatisfiable):
        chosen_range("bytes=0-", 0)


@pytest.mark.parametrize(
    ("header", "named"),
    [('"a"', True), ('"b", "a"', True), ('W/"a"', True), ("*", True), ('"b"', False), ("a", False), (None, False)],
)
def test_tags_are_compared(header: str | None, named: bool) -> None:
    """If-None-Match weakly; If-Range strongly."""
    assert names_tag(header, '"a"') is named
    assert is_current('"a"', '"a"')
    assert not is_current('W/"a"', '"a"')
    assert not is_current("Sun, 06 Nov 1994 08:49:37 GMT", '"a"')


async def test_what_a_client_has_is_not_sent_again(api: Api) -> None:
    """304 by the tag, which differs by take and format; a part is sent only to who has the same whole."""
    task_id = await completed(api, 1, 2)
    urls = [f"/v1/tasks/{task_id}/audio?take={take}&format={form}" for take in (0, 1) for form in ("wav", "flac")]
    tags = [(await api.http.get(url)).headers["etag"] for url in urls]
    assert len(set(tags)) == 4
    for url, tag in zip(urls, tags, strict=True):
        answer = await api.http.get(url, headers={"If-None-Match": f'"x", W/{tag}'})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
        part = await api.http.get(url, headers={"Range": "bytes=0-9", "If-Range": tag})
        assert part.status_code == 206
        other = await api.http.get(
            url, headers={"Range": "bytes=0-9", "If-Range": tags[0] if tag != tags[0] else '"y"'}
        )
        assert other.status_code == 200
    assert (await api.http.get(urls[0])).headers["cache-control"] == "private, no-cache"


@pytest.mark.parametrize(
    ("form", "media_type", "magic"),
    [("flac", "audio/flac", b"fLaC"), ("mp3", "audio/mpeg", b"ID3"), ("opus", "audio/ogg", b"OggS")],
)
async def test_formats(api: Api, form: str, media_type: str, magic: bytes) -> None:
    """Converted once, however often it is asked for, and at the same time too."""
    task_id = await completed(api, 1)
    url = f"/v1/tasks/{task_id}/audio?format={form}"
    answers = await asyncio.gather(*(api.http.get(url) for _ in range(3)))
    assert {answer.content for answer in [*answers, await api.http.get(url)]} == {answers[0].content}
    assert answers[0].headers["content-type"] == media_type
    assert answers[0].content.startswith(magic)
    assert api.desk.conversions == 1


async def test_flac_is_exact(api: Api) -> None:
    task_id = await completed(api, 1)
    answer = await api.http.get(f"/v1/tasks/{task_id}/audio?format=flac")
    samples, rate_hz = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    assert rate_hz == SHEET.sample_rate_hz
    np.testing.assert_array_equal(samples, np.frombuffer(pcm(1), np.int16).reshape(-1, 2))


async def test_the_task_s_own_format_is_the_usual_one(api: Api) -> None:
    task_id = await completed(api, 1, format="flac")
    assert (await api.http.get(f"/v1/tasks/{task_id}/audio")).headers["content-type"] == "audio/flac"
    assert (await api.http.get(f"/v1/tasks/{task_id}/audio?format=wav")).content == wav(1)


async def test_before_there_is_audio(api: Api) -> None:
    """409 that says whether it is to be waited for."""
    task_id = await created(api)
    is_problem(await api.http.get(f"/v1/tasks/{task_id}/audio"), 409, "not_ready")
    await api.store.cancel(task_id)
    is_problem(await api.http.get(f"/v1/tasks/{task_id}/audio"), 409, "task_cancelled")
    is_problem(await api.http.get(f"/v1/tasks/{task_id}/audio?live=1"), 409, "task_cancelled")


async def test_audio_of_the_old_routes(api: Api) -> None:
    """Has one take, by ranges too; it is not heard while it is made."""
    task_id = (await api.generate()).json()["task_id"]
    url = f"/v1/tasks/{task_id}/audio"
    is_problem(await api.http.get(f"{url}?live=1"), 409, "not_ready")
    claim = await api.store.claim(task_id, "worker")
    assert claim is not None
    await api.store.advance(claim, Status.GENERATING)
    await api.store.advance(claim, Status.ENCODING)
    await api.store.finish(claim, wav(3))
    assert (await api.http.get(url)).content == wav(3)
    assert (await api.http.get(url, headers={"Range": "bytes=44-47"})).content == wav(3)[44:48]
    is_problem(await api.http.get(f"{url}?take=1"), 400, "unknown_take")


@pytest.mark.parametrize("query", ["", "?format=flac"])
async def test_head_tells_of_the_file(api: Api, query: str) -> None:
    """As GET, without a byte of it."""
    task_id = await completed(api, 1)
    url = f"/v1/tasks/{task_id}/audio{query}"
    got, head = await api.http.get(url), await api.http.head(url)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "accept-ranges"):
        assert head.headers[name] == got.headers[name]


async def test_a_forgotten_task_s_audio_is_gone(api: Api) -> None:
    """Though its conversion may still be kept."""
    task_id = await completed(api, 1)
    url = f"/v1/tasks/{task_id}/audio?format=flac"
    assert (await api.http.get(url)).status_code == 200
    await api.http.delete(f"/v1/tasks/{task_id}")
    is_problem(await api.http.get(url), 404, "unknown_task")


async def test_conversions_are_bounded() -> None:
    """The ones used last are kept; one that is too large by itself is not, and displaces none."""
    made: list[str] = []

    async def get(key: str, size_bytes: int) -> None:
        async def make() -> bytes:
            made.append(key)
            return bytes(size_bytes)

        assert len(await conversions.get(key, make)) == size_bytes

    conversions = Conversions(100)
    for key, size_bytes in (("a", 40), ("b", 40), ("a", 40), ("c", 40), ("a", 40), ("d", 101), ("a", 40), ("b", 40)):
        await get(key, size_bytes)
        assert conversions.kept_bytes <= 100
    assert made == ["a", "b", "c", "d", "b"]


async def test_a_conversion_survives_who_asked_first() -> None:
    """Others wait for the same one; what failed is tried anew."""
    go, began = asyncio.Event(), 0

    async def make() -> bytes:
        nonlocal began
        began += 1
        await go.wait()
        if began == 1:
            raise ValueError("no")
        return b"made"

    conversions = Conversions(100)
    first, second = (asyncio.ensure_future(conversions.get("k", make)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    go.set()
    with pytest.raises(ValueError, match="no"):
        await second
    assert await conversions.get("k", make) == b"made"
    assert began == 2


async def test_live_audio_is_wav_alone(api: Api) -> None:
    task_id = (await create(api, format="mp3")).json()["id"]
    is_problem(await api.http.get(f"/v1/tasks/{task_id}/audio?live=1&format=mp3"), 400, "live_is_wav")
    is_problem(await api.http.get(f"/v1/tasks/{task_id}/audio?live=1&take=1"), 400, "unknown_take")
