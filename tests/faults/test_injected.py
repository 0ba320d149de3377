"""Machines that fail without dying: a full disk, a device out of memory, a download and an ffmpeg that hang.

Each ends in a clear failure or in another attempt within the task's budget, and leaves no process, no temporary file
and no slot taken. The house has two slots: one that leaked would be missed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from gary.audio.ffmpeg import find_ffmpeg
from gary.config import MIB
from tests.faults.houses import House, Landlord, Plan, song_wav
from tests.faults.journey import Journey
from tests.faults.ledger import Case, Report
from tests.faults.waiting import must

# Long enough for four good downloads at once on two slow cores: one needed more than 4 s there.
LIMITS = {"download_timeout_s": 8.0, "ffmpeg_timeout_s": 8.0}
ATTEMPTS = 3


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file exists, the ffmpeg in `bin` beside it hangs.

    The service lets a program see its own libraries alone, `lib` beside its `bin` among them, and start no other
    process: so the real ffmpeg lies there, and takes the stand-in's place.
    """
    root = tmp_path_factory.mktemp("tools")
    (root / "bin").mkdir()
    (root / "lib").mkdir()
    real = shutil.copy(find_ffmpeg(), root / "lib" / "ffmpeg")
    stand_in = root / "bin" / "ffmpeg"
    sleep = Path(shutil.which("sleep") or "sleep").resolve()
    stand_in.write_text(f'#!/bin/sh\n[ -e "{root / "hang"}" ] && exec "{sleep}" 1000\nexec "{real}" "$@"\n')
    stand_in.chmod(0o755)
    return root / "hang"


@pytest.fixture(scope="module")
def frail(landlord: Landlord, hanging: Path) -> House:
    engine = {"device": "cpu", "threads": 1, "slots": 2, "hub_cache_dir": ".models", "hub_offline": True}
    plan = Plan(
        args={"limits": LIMITS, "engine": engine},
        path=hanging.parent / "bin",
        small_disk="tmp",
        small_disk_bytes=32 * MIB,
    )
    return landlord.let(plan)


def _codes(house: House, case: Case) -> set[str]:
    return {task["error"]["code"] for task in house.books.tasks(case.accepted) if task["error"]}


def _still_serves(house: House, case: Case) -> None:
    """As many tasks at once as twice the slots are done: nothing holds one."""
    for _ in range(4):
        assert house.post(case).status_code == 200


def test_a_download_that_hangs(frail: House, report: Report) -> None:
    """Given up in its time, tried again, and then failed with the downloader's code; one that wakes up is served."""
    with frail.case(report, "downloads that hang", "fetching") as case:
        for_ever, for_once = (frail.media.put(f"/hangs-{n}.wav", song_wav()) for n in range(2))
        release = [frail.media.hold(f"/hangs-{n}.wav") for n in range(2)]
        (awaited,) = _posted(frail, case, for_once, 1)
        _posted(frail, case, for_ever, 2)
        must(lambda: frail.books.begun_again([awaited]), "another attempt", 60)
        release[1].set()
        _still_serves(frail, case)
    release[0].set()
    assert _codes(frail, case) == {"timeout"}
    assert (case.ends["failed"], case.ends["completed"]) == (2, 5)
    frail.check_nothing_leaks()


def test_an_ffmpeg_that_hangs(frail: House, report: Report, hanging: Path) -> None:
    """Killed with its group when its time is up."""
    with frail.case(report, "ffmpegs that hang", "fetching") as case:
        hanging.touch()
        stuck = _posted(frail, case, None, 3)
        must(lambda: len(frail.children("Cropper")) >= 1, "an ffmpeg that hangs", 30)
        must(lambda: frail.books.all_ended(stuck), "the tasks' ends", 60)
        hanging.unlink()
        _still_serves(frail, case)
    assert _codes(frail, case) == {"timeout"}
    assert (case.ends["failed"], case.ends["completed"]) == (3, 4)
    frail.check_nothing_leaks()


def test_a_device_out_of_memory(frail: House, report: Report) -> None:
    """The replica is replaced; all that it decoded is begun again."""
    with frail.case(report, "a device out of memory (injected)", "generating") as case:
        before = frail.replicas("MusicGen-tiny")
        frail.doors.shut("out-of-memory")
        _posted(frail, case, None, 4, duration="16-18")
        must(lambda: not frail.doors.is_shut("out-of-memory"), "the device's failure", 30)
        must(lambda: frail.books.all_ended(case.accepted), "the tasks' ends", 90)
        case.note = f"attempts {sorted(task['attempts'] for task in frail.books.tasks(case.accepted))}"
        _still_serves(frail, case)
    assert case.ends["completed"] == len(case.accepted)
    frail.wait_until_whole()
    assert frail.replicas("MusicGen-tiny") != before
    frail.check_nothing_leaks()


def test_a_full_disk(frail: House, report: Report) -> None:
    """No room for temporary files: tried again, failed with its code, and served as soon as there is room."""
    with frail.case(report, "a full disk (temporary files)", "fetching") as case:
        frail.ask("fill")
        doomed = _posted(frail, case, None, 2)
        must(lambda: frail.books.all_ended(doomed), "the tasks' ends", 60)
        (saved,) = _posted(frail, case, None, 1)
        must(lambda: frail.books.begun_again([saved]), "another attempt", 30)
        frail.ask("free")
        _still_serves(frail, case)
        case.note = f"codes {sorted(_codes(frail, case))}"
    assert _codes(frail, case) == {"disk_full"}
    assert (case.ends["failed"], case.ends["completed"]) == (2, 5)
    assert {task["attempts"] for task in frail.books.tasks(doomed)} == {ATTEMPTS}
    frail.check_nothing_leaks()


def test_the_databases_disk_is_full(landlord: Landlord, report: Report) -> None:
    """Accepted tasks wait for room, new ones are refused, and nothing is lost when there is room again."""
    # The server's journal alone takes 100 MiB, and twice that when a new part of it begins.
    house = landlord.let(Plan(small_disk="data", small_disk_bytes=768 * MIB))
    with house.case(report, "a full disk (the database's)", "encoding") as case:
        journey = Journey(house, case, per_point=6)
        journey.hold_at("encoding", duration="28-30")  # results of 2 MB each, for which there is no room
        house.ask("fill")
        journey.go_on()
        refused = must(lambda: _refused(house, case), "a refusal", 60)
        house.ask("free")
        must(lambda: not _refused(house, case), "a task accepted", 60)
        case.note = f"POST {refused} meanwhile"
    assert refused == 503
    assert case.ends["completed"] == len(case.accepted)
    house.wait_until_whole()


def _posted(house: House, case: Case, url: str | None, count: int, **body: Any) -> list[str]:
    before = len(case.accepted)
    for _ in range(count):
        assert house.post(case, url, **body).status_code == 200
    return case.accepted[before:]


def _refused(house: House, case: Case) -> int:
    """What a POST is refused with, 0 where it is accepted; not more often than about once a second."""
    Event().wait(1.0)
    status = house.post(case).status_code
    return 0 if status == httpx.codes.OK else status
