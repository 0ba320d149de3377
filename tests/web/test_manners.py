"""How the page behaves to everybody: keyboard, names of controls, widths, colours, and the service's state in view."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.web.visit import Visit

PHONE_PX = 360
_CONTROLS = "button, input, select, summary, a, audio, progress, meter, [role=slider]"
_NAMELESS = """controls => [...document.querySelectorAll(controls)]
    .filter(e => e.checkVisibility() && !e.computedName).map(e => e.outerHTML.slice(0, 80))"""


def test_the_keyboard_plays(on_page: Visit, song_file: Path) -> None:
    """Space, arrows, takes, going on and undo, with nothing focused; a text field keeps its keys."""
    page = on_page.page
    on_page.choose_file(song_file)
    on_page.play_on(4, takes=2)
    on_page.finish()
    page.locator("#wave").focus()
    if on_page.plays():
        page.keyboard.press("Space")
    page.keyboard.press("Home")
    page.wait_for_function("() => document.getElementById('audio').currentTime === 0")
    page.keyboard.press("ArrowRight")
    bar_s = 240 / on_page.task()["music"]["tempo_bpm"]
    page.wait_for_function("s => Math.abs(document.getElementById('audio').currentTime - s) < 0.05", arg=bar_s)
    page.keyboard.press("Space")
    on_page.wait_for_time(bar_s + 0.1)
    page.keyboard.press("Space")
    assert not on_page.plays()
    page.keyboard.press("2")
    expect(on_page.button("Take 2")).to_have_attribute("aria-pressed", "true")
    page.get_by_label("What should it sound like?").fill("")
    page.keyboard.type("c u 1")
    expect(page.get_by_label("What should it sound like?")).to_have_value("c u 1")
    parent = on_page.current()
    page.locator("#wave").focus()
    page.keyboard.press("c")
    page.wait_for_function("id => localStorage.getItem('gary.current') !== JSON.stringify(id)", arg=parent)
    on_page.finish()
    page.keyboard.press("u")
    page.wait_for_function("id => localStorage.getItem('gary.current') === JSON.stringify(id)", arg=parent)


def test_everything_can_be_reached_and_has_a_name(on_page: Visit, song_file: Path) -> None:
    """By Tab from the top, in the order of the page; the waveform is a slider that says where it is."""
    page = on_page.page
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached[:6] == ["gary", "theme", "", "link", "start", "description"]
    page.locator("#more summary").click()
    assert _nameless(on_page) == []
    on_page.choose_file(song_file)
    on_page.play_on(4)
    on_page.finish()
    assert _nameless(on_page) == []
    slider = page.get_by_role("slider", name="Position in the music")
    assert float(slider.get_attribute("aria-valuemax") or 0) == pytest.approx(
        on_page.task()["music"]["duration_s"], abs=0.1
    )
    expect(page.get_by_role("status")).to_contain_text("Finished")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(at_width: Callable[[int, str], Visit], song_file: Path, scheme: str) -> None:
    """No scrolling to the side, before, during and after, and nothing to press is too small for a thumb."""
    on_page = at_width(PHONE_PX, scheme)
    page = on_page.page
    assert on_page.overflow_px() == 0
    on_page.choose_file(song_file)
    assert on_page.overflow_px() == 0
    on_page.play_on(8, takes=8)
    assert on_page.overflow_px() == 0
    on_page.finish()
    on_page.drag(0.2, 0.8)
    expect(on_page.go).to_have_text(re.compile("Play on from"))
    page.locator("#more summary").click()
    assert on_page.overflow_px() == 0
    small = page.evaluate(
        "[...document.querySelectorAll('button')].filter(b => b.checkVisibility()"
        " && Math.min(b.offsetWidth, b.offsetHeight) < 36).map(b => b.id || b.textContent)"
    )
    assert small == []


def test_the_theme_is_the_systems_until_chosen(at_width: Callable[[int, str], Visit]) -> None:
    """The choice outlives a reload, and the colours are there at once."""
    on_page = at_width(800, "dark")
    page = on_page.page
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(paper)
    on_page.button("Dark theme").click()
    light = page.evaluate(paper)
    assert light != dark
    page.reload()
    expect(on_page.button("Dark theme")).to_have_attribute("aria-pressed", "false")
    assert page.evaluate(paper) == light


def test_the_services_state_is_in_view(on_page: Visit) -> None:
    """Ready, or how many play and wait; and away, when nothing answers."""
    page = on_page.page
    expect(page.locator("#health-words")).to_have_text(re.compile("Ready|playing|waiting"))
    page.route("**/health", lambda route: route.abort())
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#health-words")).to_have_text("The service does not answer")


def _nameless(on_page: Visit) -> list[str]:
    """Controls that a screen reader could not announce."""
    found: list[str] = on_page.page.evaluate(_NAMELESS, _CONTROLS)
    return found
