"""Task values: legal steps, strict jobs, who may be claimed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from gary.errors import FatalError
from gary.tasks.music import AudioFile
from gary.tasks.task import (
    TRANSITIONS,
    UNFINISHED,
    WORKING,
    ContinueJob,
    GenerateJob,
    Lease,
    Status,
    Task,
    check_transition,
    sources_of,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GENERATE: dict[str, Any] = {
    "url": "https://youtu.be/x",
    "link": "https://www.youtube.com/watch?v=x",
    "site": "youtube",
    "model": "gary-tiny",
    "prompt_s": 6,
    "min_s": 16,
    "max_s": 18,
    "seed": 1,
}


def task(**fields: Any) -> Task:
    start: dict[str, Any] = {"id": "a" * 24, "status": "queued", "job": {"kind": "generate", **GENERATE}}
    return Task.model_validate({**start, "created_at": NOW, "queued_at": NOW, **fields})


def test_a_task_runs_through_its_stages_in_order_and_skips_none() -> None:
    """Of all steps forward, only those to the next stage are legal."""
    stages = [Status.QUEUED, Status.FETCHING, Status.GENERATING, Status.ENCODING, Status.COMPLETED]
    legal = {(a, b) for i, a in enumerate(stages) for b in stages[i + 1 :] if b in TRANSITIONS[a]}
    assert legal == set(pairwise(stages))


@pytest.mark.parametrize("final", sorted(set(Status) - UNFINISHED))
def test_what_is_over_can_only_be_queued_anew(final: Status) -> None:
    """A final status leads nowhere but to a restart."""
    assert TRANSITIONS[final] == {Status.QUEUED}
    check_transition(final, Status.QUEUED)
    with pytest.raises(FatalError) as caught:
        check_transition(final, Status.FETCHING)
    assert caught.value.code == "illegal_transition"


@pytest.mark.parametrize("new", list(Status))
def test_sources_are_the_table_read_backwards(new: Status) -> None:
    """`sources_of` agrees with `check_transition` for every pair."""
    for old in Status:
        if old in sources_of(new):
            check_transition(old, new)
        else:
            with pytest.raises(FatalError):
                check_transition(old, new)


def test_a_worker_s_task_is_claimable_only_once_its_lease_ran_out() -> None:
    """Queued always, working after the lease, finished never."""
    lease = Lease(owner="w", until=NOW)
    assert task().is_claimable(NOW)
    for status in WORKING:
        working = task(status=status, lease=lease)
        assert not working.is_claimable(NOW)
        assert working.is_claimable(NOW + timedelta(milliseconds=1))
    for status in set(Status) - UNFINISHED:
        assert not task(status=status).is_claimable(NOW)


def test_the_kind_decides_which_job_a_document_is() -> None:
    """Documents become the class of their kind, and no field of the other kind gets in."""
    assert isinstance(task().job, GenerateJob)
    music = {name: GENERATE[name] for name in ("url", "model", "prompt_s", "seed")}
    assert isinstance(task(job={"kind": "continue", "length_s": 30, **music}).job, ContinueJob)
    with pytest.raises(ValidationError):
        task(job={"kind": "continue", "length_s": 30, **GENERATE})


@pytest.mark.parametrize(
    "wrong",
    [{"prompt_s": 0}, {"prompt_s": float("nan")}, {"max_s": float("inf")}, {"min_s": 19}, {"seed": 2**63}, {"x": 1}],
    ids=repr,
)
def test_a_job_refuses_what_cannot_be_run(wrong: dict[str, Any]) -> None:
    """Lengths are positive and finite, the range is one, the seed fits the database, keys are known."""
    with pytest.raises(ValidationError):
        GenerateJob(**{**GENERATE, **wrong})


@pytest.mark.parametrize("name", ["a.b", "$set", "", "Tempo", "a" * 41])
def test_a_fact_s_name_cannot_reach_elsewhere_in_the_document(name: str) -> None:
    """Names of facts become paths in updates, so dots and dollars are refused."""
    with pytest.raises(ValidationError):
        task(facts={name: 1})


def test_a_task_knows_the_files_it_refers_to() -> None:
    """Upload and result, where there are any."""
    upload, result = AudioFile(file_id="b" * 24, size_bytes=1), AudioFile(file_id="c" * 24, size_bytes=1)
    assert task().file_ids == ()
    assert task(upload=upload, result=result).file_ids == ("b" * 24, "c" * 24)
