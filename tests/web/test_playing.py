"""What a musician does with the page, in a real browser against the real service."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Request, Route, expect

from tests.web.visit import DRAWN_SHARE, MADE_S, Visit

KEY = "a-secret"
Magic = tuple[bytes, ...]
LONG_BARS = 64  # at the song's tempo 88 s of new music, which takes a while to make


def test_a_link_is_heard_while_its_music_is_made(on_page: Visit, song_url: str) -> None:
    """The audio element's time moves, and the waveform has grown, before the task ends."""
    page = on_page.page
    on_page.choose_link(song_url, "0:02")
    on_page.play_on(LONG_BARS)
    on_page.wait_for_time(0.3)
    assert on_page.plays()
    drawn = on_page.drawn_share()
    page.wait_for_function(f"before => ({DRAWN_SHARE})() > before + 0.02", arg=drawn)
    assert on_page.drawn_share() < 0.98
    assert on_page.task()["state"] == "generating"
    expect(page.get_by_role("progressbar", name="Progress")).to_be_visible()
    expect(page.locator("#making-words")).to_contain_text(re.compile(r"Making music · \d+ %"))
    task = on_page.task()
    assert task["request"]["source"]["start_s"] == 2
    assert task["music"]["bars"] == LONG_BARS
    lines = page.locator("#grid i").count()
    assert lines >= LONG_BARS
    left = float(page.locator("#before").evaluate("box => box.offsetWidth / box.parentElement.offsetWidth"))
    assert left == pytest.approx(task["music"]["source_s"] / task["music"]["duration_s"], abs=0.01)
    on_page.button("Cancel").click()
    expect(page.locator("#making-words")).to_have_text("Cancelled.")


def test_an_upload_is_cropped_continued_and_undone(on_page: Visit, song_file: Path) -> None:
    """The child goes on from the part that was marked, snapped to bars; undo is the parent."""
    page = on_page.page
    on_page.choose_file(song_file)
    on_page.play_on(4)
    on_page.finish()
    parent = on_page.task()
    assert parent["request"]["prompt"]["side"] == "tail"
    on_page.drag(0.05, 0.7)
    expect(page.locator("#crop-words")).to_contain_text("It goes on from")
    expect(on_page.go).to_have_text(re.compile("Play on from 0:0"))
    on_page.play_on(2)
    on_page.finish()
    child = on_page.task()
    assert child["parent"] == parent["id"]
    music = parent["music"]
    bar_s = 240 / music["tempo_bpm"]
    bars = (child["request"]["source"]["end_s"] - music["source_s"]) / bar_s
    assert bars == pytest.approx(round(bars), abs=0.01)
    assert 0 < round(bars) < 4
    on_page.button("Undo").click()
    page.wait_for_function("id => localStorage.getItem('gary.current') === JSON.stringify(id)", arg=parent["id"])
    tree = page.get_by_role("navigation", name="This session")
    expect(tree.get_by_role("button")).to_have_count(2)
    expect(tree.locator("li li")).to_have_count(1)
    expect(tree.locator("[aria-current=true]")).to_contain_text("song.wav")


def test_cropping_without_a_mouse(on_page: Visit, song_file: Path) -> None:
    """The stretch can be typed, and taken back."""
    on_page.choose_file(song_file)
    on_page.play_on(4)
    on_page.finish()
    on_page.page.get_by_label("to", exact=True).fill("0:04.5")
    on_page.page.get_by_label("to", exact=True).press("Tab")
    expect(on_page.go).to_have_text("Play on from 0:04.5")
    on_page.play_on(1)
    assert on_page.task()["request"]["source"]["end_s"] == 4.5
    on_page.finish()
    on_page.button("Undo").click()
    on_page.drag(0.1, 0.6)
    expect(on_page.go).to_have_text(re.compile("Play on from"))
    on_page.button("All of it").click()
    expect(on_page.go).to_have_text("Play on")


def test_takes_are_heard_and_branched_from(on_page: Visit, song_file: Path) -> None:
    """Each take is a sound of its own, and a continuation says which one it goes on from."""
    page = on_page.page
    on_page.choose_file(song_file)
    on_page.play_on(2, takes=2)
    on_page.finish()
    on_page.button("Take 2").click()
    expect(on_page.button("Take 2")).to_have_attribute("aria-pressed", "true")
    page.wait_for_function("() => document.getElementById('audio').currentSrc.includes('take=1')")
    on_page.play_on(2)
    on_page.finish()
    assert on_page.task()["request"]["source"]["take"] == 1
    expect(page.locator("#tree [aria-current=true]")).to_contain_text("from take 2")


def test_cancel_ends_the_task(on_page: Visit, song_file: Path) -> None:
    """The service stops as well, and the page offers to begin again with the same file."""
    on_page.choose_file(song_file)
    on_page.play_on(LONG_BARS)
    on_page.button("Cancel").click()
    expect(on_page.page.locator("#making-words")).to_have_text("Cancelled.")
    assert on_page.task()["state"] == "cancelled"
    assert not on_page.plays()
    expect(on_page.page.locator("#drop")).to_contain_text("song.wav")
    expect(on_page.go).to_be_enabled()


def test_a_reload_in_the_middle_goes_on(on_page: Visit, song_file: Path) -> None:
    """The same task is on stage again, still being made, and is followed to its end."""
    on_page.choose_file(song_file)
    on_page.play_on(24)
    on_page.wait_for_time(0.1)
    before = on_page.current()
    on_page.page.reload()
    expect(on_page.button("Cancel")).to_be_visible()
    assert on_page.current() == before
    assert on_page.task()["state"] == "generating"
    on_page.finish()
    expect(on_page.button("Download")).to_be_enabled()
    assert on_page.task()["state"] == "completed"


def test_the_microphone_is_recorded_and_played_on(on_page: Visit) -> None:
    """What was recorded can be heard, and is what is uploaded."""
    page = on_page.page
    page.get_by_text("Microphone", exact=True).click()
    on_page.button("Record").click()
    expect(page.get_by_role("meter", name="Level of the microphone")).to_be_visible()
    expect(page.locator("#record-words")).to_have_text(re.compile(r"Stop · 0:0[3-9]"), timeout=20_000)
    page.locator("#record").click()
    expect(page.get_by_label("What was recorded")).to_be_visible()
    on_page.play_on(2)
    on_page.finish()
    assert on_page.task()["request"]["source"]["name"] == "recording.webm"


@pytest.mark.parametrize(
    ("name", "magic"),
    [("WAV", (b"RIFF",)), ("FLAC", (b"fLaC",)), ("MP3", (b"ID3", b"\xff\xfb")), ("Opus", (b"OggS",))],
    ids=["wav", "flac", "mp3", "opus"],
)
def test_a_part_is_downloaded_in_any_format(on_page: Visit, song_file: Path, name: str, magic: Magic) -> None:
    """The whole, then the part that is marked, which is smaller."""
    on_page.choose_file(song_file)
    on_page.play_on(2)
    on_page.finish()
    on_page.page.get_by_label("Format of the download").select_option(name)
    sizes = []
    for _ in range(2):
        with on_page.page.expect_download() as download:
            on_page.button(re.compile("Download")).click()
        data = download.value.path().read_bytes()
        assert download.value.suggested_filename.endswith(f".{name.lower()}")
        assert data.startswith(magic)
        sizes.append(len(data))
        on_page.drag(0.1, 0.5)
    assert sizes[1] < sizes[0]


def test_a_failed_task_says_why_and_what_to_do(on_page: Visit, song_url: str) -> None:
    """In a sentence beside the music; the same link can be tried with another start."""
    on_page.choose_link(song_url, "9:59")
    on_page.play_on(2)
    words = on_page.page.locator("#making-words")
    expect(words).to_contain_text("Choose an earlier start.", timeout=MADE_S * 1000)
    on_page.page.get_by_label("Start at").fill("0:01")
    on_page.play_on(2)
    on_page.finish()


@pytest.mark.parametrize(
    ("url", "start", "words"),
    [
        ("", "", "There is no link yet."),
        ("https://example.org/music", "", "can be dropped as a file"),
        ("https://www.youtube.com/watch?v=dQw4w9WgXcQ", "soon", "Write it as 1:23"),
    ],
    ids=["nothing", "elsewhere", "no time"],
)
def test_what_is_refused_is_said_in_words(on_page: Visit, url: str, start: str, words: str) -> None:
    """An alert with what was wrong and what to do; nothing is begun."""
    on_page.choose_link(url, start)
    on_page.go.click()
    expect(on_page.page.get_by_role("alert")).to_contain_text(words)
    assert on_page.current() is None


def test_a_key_is_asked_for_where_one_is_wanted(on_page: Visit, song_file: Path) -> None:
    """With the first 401; from then on it goes with every request, the audio element's and the events' too."""
    page = on_page.page
    seen: dict[str, set[str | None]] = {}
    page.context.on("request", lambda request: _note_key(seen, request))
    page.context.route("**/v1/models", _refuse_without_key)
    page.reload()
    page.get_by_label("API key").fill(KEY)
    on_page.button("Use it").click()
    expect(page.locator("#model option")).not_to_have_count(0)
    expect(page.get_by_role("dialog")).to_be_hidden()
    seen.clear()
    on_page.choose_file(song_file)
    on_page.play_on(2)
    on_page.finish()
    on_page.wait_for_time(0.1)
    assert {"tasks", "events", "audio"} <= set(seen)
    assert all(f"Bearer {KEY}" in shown for shown in seen.values()), seen


def _note_key(seen: dict[str, set[str | None]], request: Request) -> None:
    path = urlsplit(request.url).path
    if path.startswith("/v1/"):
        seen.setdefault(path.rsplit("/", 1)[1], set()).add(request.headers.get("authorization"))


def _refuse_without_key(route: Route, request: Request) -> None:
    if request.headers.get("authorization") == f"Bearer {KEY}":
        route.continue_()
        return
    problem = {"title": "Unauthorized", "status": 401, "detail": "a key is needed", "code": "unauthorized"}
    route.fulfill(status=401, content_type="application/problem+json", body=json.dumps(problem))
