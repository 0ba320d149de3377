"""/v1/tasks: what is taken and refused, how a task is shown from its beginning to its end, and how it goes away."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gary.api.v1.schemas import TaskBody
from gary.config import Limits
from gary.errors import MediaError
from gary.tasks.music import LinkSource, MusicJob, TaskSource
from gary.tasks.task import Status
from tests.api.conftest import Api, OpenApi, wav64
from tests.api.music import SHEET, UNKNOWN_ID, VIDEO, add, begun, completed, create, created, finish, receipt_of

TASK = {"source": {"url": VIDEO}}


def is_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["type"]) == (status, f"/docs/errors#{code}")
    assert body["title"]
    assert 0 < len(body["detail"]) < 1000


async def _job(api: Api, task_id: str) -> MusicJob:
    job = (await api.store.get(task_id)).job
    assert isinstance(job, MusicJob)
    return job


async def test_the_least_that_can_be_asked(api: Api) -> None:
    """A link is enough: the rest is as usual, and the task says how."""
    answer = await create(api, source={"url": VIDEO})
    assert answer.status_code == 202
    task = answer.json()
    assert answer.headers["location"] == task["links"]["self"] == f"/v1/tasks/{task['id']}"
    assert (task["state"], task["attempts"], task["takes"], task["music"], task["progress"]) == (
        "queued",
        0,
        [],
        None,
        None,
    )
    assert task["queue"]["position"] == 1
    assert task["request"] == {
        "source": {"url": VIDEO, "start_s": 0.0},
        "model": "facebook/musicgen-small",
        "description": None,
        "prompt": {"length_s": 6.0, "side": "cursor"},
        "length": {"bars": 8, "tempo_bpm": None},
        "sampling": {"top_k": 250, "top_p": 0.0, "temperature": 1.0, "cfg_coef": 3.0, "extend_stride_s": 18.0},
        "seed": 7,
        "takes": 1,
        "format": "wav",
    }
    assert api.begun == [task["id"]]


async def test_everything_that_can_be_asked(api: Api) -> None:
    """Comes into the job as it was sent, and is shown so that it can be sent again."""
    asked = {
        "source": {"url": "youtu.be/dQw4w9WgXcQ", "start_s": 12.5},
        "model": "gary-tiny",
        "description": "slow drums",
        "prompt": {"length_s": 4.0, "side": "cursor"},
        "length": {"min_s": 8.0, "max_s": 12.0},
        "sampling": {"top_k": 0, "top_p": 0.9, "temperature": 0.8, "cfg_coef": 2.0, "extend_stride_s": 10.0},
        "seed": 2**53 - 3,
        "takes": 3,
        "format": "opus",
    }
    answer = await create(api, **asked)
    assert answer.json()["request"] == asked
    job = await _job(api, answer.json()["id"])
    assert job.source == LinkSource(url="youtu.be/dQw4w9WgXcQ", link=VIDEO, site="youtube", start_s=12.5)
    assert (job.seed, job.takes, job.format, job.length.max_s) == (2**53 - 3, 3, "opus", 12.0)
    TaskBody.model_validate(answer.json()["request"])


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"source": {}}, "invalid_input", "source"),
        ({"source": {"url": VIDEO, "task": UNKNOWN_ID}}, "invalid_input", "source"),
        ({"source": {"url": VIDEO, "start": 1}}, "invalid_input", "source.url.start"),
        ({"source": {"url": VIDEO, "start_s": -1}}, "invalid_input", "source.url.start_s"),
        ({"source": {"url": VIDEO, "start_s": "3"}}, "invalid_input", "source.url.start_s"),
        ({"source": {"upload": False}}, "invalid_input", "source.upload.upload"),
        ({"source": {"task": "x"}}, "invalid_input", "source.task.task"),
        ({"extra": 1}, "invalid_input", "extra"),
        ({"takes": 0}, "invalid_input", "takes"),
        ({"takes": 9}, "invalid_input", "takes"),
        ({"takes": True}, "invalid_input", "takes"),
        ({"seed": 2**53}, "invalid_input", "seed"),
        ({"seed": -1}, "invalid_input", "seed"),
        ({"format": "aac"}, "invalid_input", "format"),
        ({"length": {"bars": 8, "seconds": 4}}, "invalid_input", "length"),
        ({"length": {"min_s": 4}}, "invalid_input", "length.range.max_s"),
        ({"length": {"min_s": 4, "max_s": 3}}, "invalid_input", "length.range"),
        ({"length": {"bars": 65}}, "invalid_input", "length.bars.bars"),
        ({"prompt": {"side": "middle"}}, "invalid_input", "prompt.side"),
        ({"sampling": {"temperature": -1}}, "invalid_input", "sampling.temperature"),
        ({"description": "d" * 1001}, "invalid_input", "description"),
        ({"source": {"url": "https://example.com/a.mp3"}}, "unsupported_url", None),
        ({"source": {"url": VIDEO, "start_s": 10_801.0}}, "past_end", None),
        ({"source": {"upload": True}}, "no_upload", None),
        ({"model": "nobody/nothing"}, "unknown_model", None),
        ({"seed": 2**53 - 1, "takes": 2}, "seed_too_large", None),
        ({"prompt": {"length_s": 20.1}}, "prompt_too_long", None),
        ({"length": {"seconds": 120.1}}, "music_too_long", None),
        ({"length": {"min_s": 1, "max_s": 121}}, "music_too_long", None),
        ({"length": {"bars": 64, "tempo_bpm": 100}}, "music_too_long", None),
        ({"source": {"url": VIDEO, "start_s": 5}, "prompt": {"side": "tail"}}, "bad_side", None),
    ],
)
async def test_what_cannot_be_served(api: Api, changes: dict[str, Any], code: str, field: str | None) -> None:
    """400 with its own code, each place named; and no task."""
    answer = await create(api, **changes)
    is_problem(answer, 400, code)
    assert [finding["field"] for finding in answer.json().get("errors", [])] == ([field] if field else [])
    assert api.begun == []


@pytest.mark.parametrize("length", [{"seconds": 120.0}, {"bars": 64, "tempo_bpm": 128.0}, {"bars": 64}])
async def test_the_longest_that_is_made(api: Api, length: dict[str, float]) -> None:
    """Without a tempo, bars are bounded when it has been heard."""
    await created(api, length=length)


async def test_seeds_of_all_takes_stay_exact(api: Api) -> None:
    """In JavaScript too: the last take's is still below 2**53."""
    assert (await _job(api, await created(api, seed=2**53 - 8, takes=8))).seed == 2**53 - 8


async def test_a_task_from_its_beginning_to_its_end(api: Api) -> None:
    """States, progress, what is made, timings, takes and the receipt, each as soon as it is known."""
    task_id = await created(api, takes=2, seed=5)

    async def shown() -> dict[str, Any]:
        task: dict[str, Any] = (await api.http.get(f"/v1/tasks/{task_id}")).json()
        return task

    claim = await api.store.claim(task_id, "worker")
    assert claim is not None
    fetching = await shown()
    assert (fetching["state"], fetching["queue"], fetching["progress"]) == ("fetching", None, None)
    await api.store.begin_music(claim, SHEET)
    await api.store.set_progress(claim, 0.25, 50, 200, 3.5)
    generating = await shown()
    assert generating["progress"] == {"fraction": 0.25, "frames_done": 50, "frames_total": 200, "eta_s": 3.5}
    assert generating["music"] == {
        "sample_rate_hz": 8000,
        "channels": 2,
        "source_s": 0.5,
        "duration_s": 2.0,
        "prompt_s": 0.5,
        "tempo_bpm": 120.0,
        "tempo_confidence": 0.9,
        "tempo_assumed": False,
        "bars": 1,
    }
    await finish(api.store, claim, 5, 6)
    done = await shown()
    assert (done["state"], done["error"], done["attempts"]) == ("completed", None, 1)
    assert [(take["take"], take["seed"], take["duration_s"]) for take in done["takes"]] == [(0, 5, 2.0), (1, 6, 2.0)]
    assert done["takes"][1]["audio"] == f"/v1/tasks/{task_id}/audio?take=1"
    assert done["receipt"] == receipt_of((5, 6)).model_dump(mode="json")
    assert all(seconds >= 0 for seconds in done["timings"].values())
    assert done["finished_at"] >= done["created_at"]
    assert done["created_at"].endswith("Z")


async def test_a_failed_task_says_why(api: Api) -> None:
    task_id = await created(api)
    claim = await api.store.claim(task_id, "worker")
    assert claim is not None
    await api.store.fail(claim, MediaError("there is nothing to hear", "not_audio"))
    task = (await api.http.get(f"/v1/tasks/{task_id}")).json()
    assert (task["state"], task["error"]) == ("failed", {"code": "not_audio", "message": "there is nothing to hear"})
    assert task["links"]["live"] is None
    assert task["timings"] == {
        "queued_s": pytest.approx(0, abs=30),
        "fetching_s": pytest.approx(0, abs=30),
        "generating_s": None,
        "encoding_s": None,
    }


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [(UNKNOWN_ID, 404, "unknown_task"), ("x", 400, "malformed_id"), ("a/b", 404, "unknown_route")],
)
async def test_a_task_that_there_is_not(api: Api, path: str, status: int, code: str) -> None:
    """The same on every route that names a task."""
    is_problem(await api.http.get(f"/v1/tasks/{path}"), status, code)
    for answer in (
        await api.http.delete(f"/v1/tasks/{path}"),
        await api.http.get(f"/v1/tasks/{path}/events"),
        await api.http.get(f"/v1/tasks/{path}/audio"),
        await api.http.post(f"/v1/tasks/{path}/continue", json={}),
    ):
        is_problem(answer, status, code)


async def test_a_task_of_the_old_routes_is_shown(api: Api) -> None:
    """As what comes nearest in the new words: lengths count new music alone."""
    task_id = (await api.generate(currentTime=3, duration="16-18", promptLength=6)).json()["task_id"]
    claim = await api.store.claim(task_id, "worker")
    assert claim is not None
    await api.store.advance(claim, Status.GENERATING)
    await api.store.advance(claim, Status.ENCODING)
    await api.store.finish(claim, b"RIFF", {"duration_s": 17.5})
    task = (await api.http.get(f"/v1/tasks/{task_id}")).json()
    assert task["request"]["source"] == {"url": VIDEO, "start_s": 3.0}
    assert task["request"]["length"] == {"min_s": 10.0, "max_s": 12.0}
    assert task["takes"] == [
        {"take": 0, "seed": 7, "duration_s": 17.5, "wav_sha256": None, "audio": f"/v1/tasks/{task_id}/audio?take=0"}
    ]
    assert (task["music"], task["receipt"], task["links"]["live"]) == (None, None, None)
    await api.http.post("/continue", json={"task_id": task_id, "audio": wav64(1), "prompt_duration": 0.5})
    again = (await api.http.get(f"/v1/tasks/{task_id}")).json()
    assert again["request"]["source"] == {"upload": True, "name": None, "start_s": 0.0}
    assert again["request"]["prompt"] == {"length_s": 0.5, "side": "tail"}


async def test_going_on_from_a_task(api: Api) -> None:
    """The child names its parent, the parent its children; both routes make the same job."""
    parent = await completed(api, 1, 2)
    body = {"take": 1, "start_s": 0.5, "end_s": 1.5, "length": {"seconds": 4.0}, "seed": 9}
    answer = await api.http.post(f"/v1/tasks/{parent}/continue", json=body)
    assert answer.status_code == 202
    child = answer.json()
    assert (child["parent"], child["links"]["parent"]) == (parent, f"/v1/tasks/{parent}")
    assert answer.headers["location"] == child["links"]["self"]
    assert child["request"]["source"] == {"task": parent, "take": 1, "start_s": 0.5, "end_s": 1.5}
    other = await created(api, source=child["request"]["source"], length={"seconds": 4.0}, seed=9)
    assert await _job(api, other) == await _job(api, child["id"])
    assert (await _job(api, other)).source == TaskSource(task=parent, take=1, start_s=0.5, end_s=1.5)
    assert (await _job(api, other)).side == "tail"
    assert (await api.http.get(f"/v1/tasks/{parent}")).json()["children"] == [child["id"], other]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"take": 1}, "unknown_take"),
        ({"end_s": 2.5}, "past_end"),
        ({"start_s": 2.0}, "bad_range"),
        ({"start_s": 1.0, "end_s": 1.05}, "bad_range"),
        ({"prompt": {"side": "head"}}, "bad_side"),
        ({"source": {"url": VIDEO}}, "invalid_input"),
    ],
)
async def test_a_stretch_that_there_is_not(api: Api, changes: dict[str, Any], code: str) -> None:
    parent = await completed(api, 1)
    is_problem(await api.http.post(f"/v1/tasks/{parent}/continue", json=changes), 400, code)
    assert api.begun == [parent]


async def test_only_a_completed_task_can_be_gone_on_from(api: Api) -> None:
    """409 that says whether it is to be waited for; a rounded end is its end."""
    parent = await created(api)
    is_problem(await api.http.post(f"/v1/tasks/{parent}/continue", json={}), 409, "not_ready")
    await api.store.cancel(parent)
    is_problem(await api.http.post(f"/v1/tasks/{parent}/continue", json={}), 409, "task_cancelled")
    failed = await created(api)
    claim = await begun(api.store, failed)
    await api.store.fail(claim, MediaError("no", "not_audio"))
    is_problem(await api.http.post(f"/v1/tasks/{failed}/continue", json={}), 409, "task_failed")
    parent = await completed(api, 1)
    assert (await api.http.post(f"/v1/tasks/{parent}/continue", json={"end_s": 2.004})).status_code == 202


async def test_delete_cancels_and_then_forgets(api: Api) -> None:
    """An unfinished task is cancelled and shown; a finished one goes, with its audio."""
    task_id = await created(api)
    cancelled = await api.http.delete(f"/v1/tasks/{task_id}")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert cancelled.json()["finished_at"] is not None
    forgotten = await api.http.delete(f"/v1/tasks/{task_id}")
    assert (forgotten.status_code, forgotten.content) == (204, b"")
    is_problem(await api.http.get(f"/v1/tasks/{task_id}"), 404, "unknown_task")


async def test_delete_can_be_told_which_of_both_is_meant(api: Api) -> None:
    """So a repeated or late request neither forgets what was to be cancelled nor cancels what was to be forgotten."""
    task_id = await created(api)
    is_problem(await api.http.delete(f"/v1/tasks/{task_id}?only=finished"), 409, "unfinished")
    assert (await api.http.delete(f"/v1/tasks/{task_id}?only=unfinished")).json()["state"] == "cancelled"
    is_problem(await api.http.delete(f"/v1/tasks/{task_id}?only=unfinished"), 409, "finished")
    assert (await api.http.get(f"/v1/tasks/{task_id}")).json()["state"] == "cancelled"
    assert (await api.http.delete(f"/v1/tasks/{task_id}?only=finished")).status_code == 204


async def test_a_parent_stays_while_a_child_needs_it(api: Api) -> None:
    parent = await completed(api, 1)
    child = (await api.http.post(f"/v1/tasks/{parent}/continue", json={})).json()["id"]
    is_problem(await api.http.delete(f"/v1/tasks/{parent}"), 409, "has_unfinished_children")
    assert (await api.http.delete(f"/v1/tasks/{child}")).status_code == 200
    assert (await api.http.delete(f"/v1/tasks/{parent}")).status_code == 204


async def test_the_same_request_under_a_key_is_one_task(api: Api) -> None:
    """However it is written, and however far the task is; another request under it is refused."""
    headers = {"Idempotency-Key": "a"}

    async def ask(**body: Any) -> httpx.Response:
        return await api.http.post("/v1/tasks", json=TASK | body, headers=headers)

    first, beside = await asyncio.gather(ask(), ask())
    assert first.json()["id"] == beside.json()["id"]
    again = await ask(takes=1, prompt={"length_s": 6})
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert again.headers["location"] == first.headers["location"]
    is_problem(await ask(takes=2), 422, "idempotency_mismatch")


async def test_a_full_house(open_api: OpenApi) -> None:
    """429 with a word on when to come again, and the same key is answered all the same."""
    async with open_api(Limits(unfinished_tasks=1)) as api:
        kept = await api.http.post("/v1/tasks", json=TASK, headers={"Idempotency-Key": "k"})
        refused = await create(api)
        is_problem(refused, 429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        again = await api.http.post("/v1/tasks", json=TASK, headers={"Idempotency-Key": "k"})
        assert again.json()["id"] == kept.json()["id"]


async def test_a_live_chunk_is_no_take(api: Api) -> None:
    """What is only being made is not shown as made."""
    task_id = await created(api)
    claim = await begun(api.store, task_id)
    await add(api.store, claim, 1, 0, 100)
    task = (await api.http.get(f"/v1/tasks/{task_id}")).json()
    assert (task["takes"], task["links"]["live"]) == ([], f"/v1/tasks/{task_id}/audio?live=1")
