"""A browser on the page of the running service: Chromium, with a microphone that beeps and sound without a gesture."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from tests.running import Running
from tests.web.visit import Visit, visit

_FLAGS = (
    "--no-sandbox",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--enable-blink-features=ComputedAccessibilityInfo",  # Element.computedName
)
TEMPO_BPM = 174.0


# The synchronous driver keeps an event loop under this thread: it must be gone before other parts' async tests run.
@pytest.fixture(scope="package")
def browser(service: Running) -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium is not None, "the page's tests need Chromium; on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def on_page(browser: Browser, service: Running) -> Iterator[Visit]:
    """The page, freshly opened by somebody who was never here; afterwards nothing may have gone wrong in it."""
    with visit(browser, service.base_url) as opened:
        yield opened


@pytest.fixture
def at_width(browser: Browser, service: Running) -> Iterator[Callable[[int, str], Visit]]:
    """Opens the page at a width in pixels, in a colour scheme."""
    opened = []

    def open_at(width_px: int, colour_scheme: str) -> Visit:
        context = visit(browser, service.base_url, width_px, colour_scheme)
        opened.append(context)
        return context.__enter__()

    yield open_at
    for context in opened:
        context.__exit__(None, None, None)


@pytest.fixture(scope="package")
def song() -> bytes:
    """Eight bars of a drum-and-bass loop, as a WAV file."""
    samples = make_loop(TEMPO_BPM, 8, "drum-and-bass", rate_hz=44_100, seed=3)
    return encode_wav(Clip(samples[None], 44_100))


@pytest.fixture
def song_file(song: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    path.write_bytes(song)
    return path


@pytest.fixture
def song_url(song: bytes, service: Running) -> str:
    return service.media.put("/song.wav", song)
