"""One visit to the page: the steps that a person takes, and what must never happen on the way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, Response, expect

MADE_S = 90.0
"""How long making music may take here, the other work of the machine included."""

# How far to the right the waveform rises above the line that stands for music to come.
DRAWN_SHARE = """() => {
    const canvas = document.querySelector('#wave > div').shadowRoot.querySelector('.canvases canvas');
    const { width, height } = canvas;
    const { data } = canvas.getContext('2d').getImageData(0, Math.round(height * 0.45), width, 1);
    let last = 0;
    for (let x = 0; x < width; x += 1) if (data[4 * x + 3] > 0) last = x;
    return last / width;
}"""
_FAILED_ANSWER = "Failed to load resource"


@dataclass
class Visit:
    """The page and what its browser complained of."""

    page: Page
    base_url: str
    complaints: list[str] = field(default_factory=list)

    def button(self, name: str | re.Pattern[str]) -> Locator:
        return self.page.get_by_role("button", name=name)

    @property
    def go(self) -> Locator:
        return self.page.locator("#go")

    def choose_file(self, path: Path) -> None:
        self.page.get_by_text("File", exact=True).click()
        self.page.locator("#file").set_input_files(path)

    def choose_link(self, url: str, start: str = "") -> None:
        self.page.get_by_label("Link to a song").fill(url)
        self.page.get_by_label("Start at").fill(start)

    def play_on(self, bars: int, takes: int = 1) -> None:
        """Asks for so much music; returns once its task is on stage."""
        self.page.get_by_role("spinbutton", name="Bars").fill(str(bars))
        self.page.get_by_role("spinbutton", name="Takes").fill(str(takes))
        before = self.current()
        self.go.click()
        self.page.wait_for_function("before => localStorage.getItem('gary.current') !== before", arg=_stored(before))

    def finish(self) -> None:
        """Waits until the music on stage is finished."""
        expect(self.page.get_by_role("group", name="What it goes on from")).to_be_visible(timeout=MADE_S * 1000)

    def current(self) -> str | None:
        """Id of the task on stage."""
        found: str | None = self.page.evaluate("JSON.parse(localStorage.getItem('gary.current'))")
        return found

    def task(self, task_id: str | None = None) -> dict[str, Any]:
        """What the service says of a task; of the one on stage unless another is named."""
        answer = self.page.request.get(f"{self.base_url}/v1/tasks/{task_id or self.current()}")
        assert answer.ok, answer.text()
        found: dict[str, Any] = answer.json()
        return found

    def time_s(self) -> float:
        """Where the audio element is."""
        return float(self.page.evaluate("document.getElementById('audio').currentTime"))

    def plays(self) -> bool:
        return not self.page.evaluate("document.getElementById('audio').paused")

    def wait_for_time(self, beyond_s: float) -> None:
        """Waits until the audio element has played beyond a time."""
        self.page.wait_for_function("s => document.getElementById('audio').currentTime > s", arg=beyond_s)

    def drawn_share(self) -> float:
        """How much of the waveform's width shows music."""
        return float(self.page.evaluate(DRAWN_SHARE))

    def drag(self, from_share: float, to_share: float) -> None:
        """Drags across the waveform, between two shares of its width."""
        wave = self.page.locator("#wave")
        wave.scroll_into_view_if_needed()
        box = wave.bounding_box()
        assert box is not None
        y = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + from_share * box["width"], y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + to_share * box["width"], y, steps=8)
        self.page.mouse.up()

    def overflow_px(self) -> int:
        """How much wider than the window the page is."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def hear_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(_FAILED_ANSWER):
            self.complaints.append(f"console: {message.text}")

    def hear_request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("blob", "data") and f"{url.scheme}://{url.netloc}" != self.base_url:
            self.complaints.append(f"asked another origin: {request.url}")

    def hear_response(self, response: Response) -> None:
        if response.status >= 500:
            self.complaints.append(f"{response.status}: {response.url}")


@contextmanager
def visit(browser: Browser, base_url: str, width_px: int = 1100, colour_scheme: Any = "light") -> Iterator[Visit]:
    """Opens the page in a browser profile of its own.

    Raises:
        AssertionError: at the end, where a script failed, the policy refused something, an answer was 5xx, or
            anything was asked of another origin.
    """
    context = browser.new_context(viewport={"width": width_px, "height": 900}, color_scheme=colour_scheme)
    context.set_default_timeout(30_000)
    page = context.new_page()
    opened = Visit(page, base_url)
    page.on("console", opened.hear_console)
    page.on("pageerror", lambda error: opened.complaints.append(f"script: {error}"))
    page.on("request", opened.hear_request)
    page.on("response", opened.hear_response)
    try:
        page.goto(base_url)
        expect(page.locator("#model option")).not_to_have_count(0)  # it has asked for the models
        yield opened
    finally:
        context.close()
    assert not opened.complaints, opened.complaints  # told in full: assertions of this module are not rewritten


def _stored(task_id: str | None) -> str | None:
    return None if task_id is None else f'"{task_id}"'
