"""Fetching, whole: the real yt-dlp in its process, against HTTP servers on the loopback interface."""

import asyncio
import contextlib
import io
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gary.config import Limits, SourcesConfig
from gary.errors import FatalError, InvalidInput, RecoverableError, SourceError, SourceUnavailable
from gary.links import Link, parse_link
from gary.sources.fetch import FetchedAudio, _end, fetch, remove_orphans

WAIT_S = 30.0


def encoded(kind: str, seed: int) -> bytes:
    """A second of noise as a file."""
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, 16000).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format=kind)
    return file.getvalue()


class Far(ThreadingHTTPServer):
    """A far side: what it serves at which path, what it was asked, and a way to keep a request waiting."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, tuple[str, bytes]] = {}  # path -> (content type, body)
        self.asked: list[str] = []
        self.waiting = threading.Event()  # a request for /hang is here
        self.closing = threading.Event()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in mid-answer is what these tests are about."""


class Answer(BaseHTTPRequestHandler):
    server: Far

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path in self.server.files:
            self._whole(*self.server.files[self.path])
        elif self.path.startswith("/endless/"):
            self._endless(self.path.removeprefix("/endless/"))
        elif self.path == "/hang":
            self._hang()
        elif self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", f"http://{self.path.removeprefix('/to/')}/a.wav")
            self.end_headers()
        else:
            self.send_error(int(self.path[1:]) if self.path[1:].isdigit() else 404)

    def _whole(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _endless(self, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.end_headers()
        while not self.server.closing.is_set():
            self.wfile.write(b"<p>" * 100_000)

    def _hang(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "audio/wav")
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.flush()
        self.server.waiting.set()
        self.server.closing.wait()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@contextlib.contextmanager
def serving() -> Iterator[Far]:
    far = Far()
    thread = threading.Thread(target=far.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield far
    finally:
        far.closing.set()
        far.shutdown()
        thread.join()
        far.server_close()


@pytest.fixture
def far() -> Iterator[Far]:
    with serving() as server:
        yield server


async def fetch_from(place: str, path: str, limits: Limits | None = None) -> FetchedAudio:
    sources = SourcesConfig(allow_direct_urls=(place,))
    link = parse_link(f"http://{place}{path}", sources.allow_direct_urls)
    return await fetch(link, 0.0, limits or Limits(download_timeout_s=WAIT_S), sources)


def fetching_pids(parent_pid: int) -> list[int]:
    """Fetching processes that a process has started and that are alive."""
    children = Path(f"/proc/{parent_pid}/task").glob("*/children")
    pids = [int(pid) for file in children for pid in file.read_text().split()]
    return [pid for pid in pids if b"gary.sources.child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def environment_of(pid: int) -> str:
    return os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes())


async def until_waiting(far: Far) -> tuple[int, Path]:
    """The fetching process of this test and its directory, once its request hangs."""
    assert await asyncio.to_thread(far.waiting.wait, WAIT_S)
    (pid,) = fetching_pids(os.getpid())
    return pid, Path(os.readlink(f"/proc/{pid}/cwd"))


def assert_nothing_left(pid: int, directory: Path) -> None:
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    assert not directory.exists()


@pytest.mark.parametrize(
    ("path", "content_type", "kind"),
    [
        ("/loop.wav", "audio/wav", "WAV"),
        ("/a%20loop.mp3?x=1", "audio/mpeg", "MP3"),
        ("/download.php", "audio/wav", "WAV"),
        ("/plain", "application/octet-stream", "MP3"),
    ],
)
async def test_a_file_arrives_byte_for_byte(far: Far, path: str, content_type: str, kind: str) -> None:
    """A file comes as it was served, whatever its name ends in and whatever the server calls it; progress ends with all
    its bytes."""
    body = encoded(kind, seed=1)
    far.files[path] = (content_type, body)
    reports: list[tuple[int, int | None]] = []
    sources = SourcesConfig(allow_direct_urls=(far.place,))
    link = parse_link(f"http://{far.place}{path}", sources.allow_direct_urls)
    found = await fetch(link, 0.0, Limits(), sources, lambda done, total: reports.append((done, total)))
    assert found.data == body
    assert found.duration_s is None
    assert reports[-1] == (len(body), len(body))


async def test_fetches_at_the_same_time_do_not_meet(far: Far) -> None:
    """Two fetches of the same path on two servers each bring their own file."""
    with serving() as other:
        far.files["/loop.wav"] = ("audio/wav", encoded("WAV", seed=1))
        other.files["/loop.wav"] = ("audio/wav", encoded("WAV", seed=2))
        found = await asyncio.gather(fetch_from(far.place, "/loop.wav"), fetch_from(other.place, "/loop.wav"))
    assert [audio.data for audio in found] == [encoded("WAV", seed=1), encoded("WAV", seed=2)]


@pytest.mark.parametrize("path", ["/big.wav", "/endless/audio/wav", "/endless/text/html"])
async def test_a_download_is_bounded(far: Far, path: str) -> None:
    """More bytes than the limit are refused, whether the server announces them or just goes on sending, as audio or as
    a page, which is read into memory."""
    far.files["/big.wav"] = ("audio/wav", bytes(300_000))
    with pytest.raises(SourceError) as caught:
        await fetch_from(far.place, path, Limits(download_bytes=200_000))
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/404", "removed"),
        ("/403", "private"),
        ("/500", "upstream"),
        ("/429", "rate_limited"),
        ("/page", "unsupported"),
        ("/page-with-audio", "unsupported"),
        ("/feed", "unsupported"),
        ("/list.m3u8", "unsupported"),
    ],
)
async def test_what_is_no_audio_has_a_code(far: Far, path: str, code: str) -> None:
    """A refusal of the far side, a page, a page or feed that embeds audio, and a playlist each end with their code, and
    what they point to is not fetched."""
    audio, head = f"http://{far.place}/loop.wav", "#EXTM3U\n#EXT-X-TARGETDURATION:9"
    far.files |= {
        "/loop.wav": ("audio/wav", encoded("WAV", seed=1)),
        "/page": ("text/html", b"<!doctype html><html><title>Music</title><body>None here.</body></html>"),
        "/page-with-audio": ("text/html", f"<!doctype html><html><audio src='{audio}'></audio></html>".encode()),
        "/feed": ("application/xml", f"<rss><channel><item><enclosure url='{audio}'/></item></channel></rss>".encode()),
        "/list.m3u8": ("application/vnd.apple.mpegurl", f"{head}\n#EXTINF:9,\n{audio}\n#EXT-X-ENDLIST\n".encode()),
    }
    with pytest.raises((SourceError, SourceUnavailable)) as caught:
        await fetch_from(far.place, path)
    assert caught.value.code == code
    assert "/loop.wav" not in far.asked


async def test_nobody_there_is_the_far_sides_trouble() -> None:
    """Where nothing answers, another attempt may succeed."""
    with serving() as gone:
        place = gone.place
    with pytest.raises(SourceUnavailable) as caught:
        await fetch_from(place, "/loop.wav")
    assert caught.value.code == "upstream"


async def test_a_redirect_to_an_address_that_is_not_listed_connects_to_nobody(far: Far) -> None:
    """The guard holds at connect: a listed server that sends us on to a private address gets us nowhere, and the
    listener there sees no connection at all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        path = f"/to/127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(SourceError) as caught:
            await fetch_from(far.place, path)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert caught.value.code == "unsupported"
    assert far.asked == [path]


async def test_a_redirect_within_what_is_listed_is_followed(far: Far) -> None:
    """A redirect is no fault by itself."""
    far.files["/a.wav"] = ("audio/wav", encoded("WAV", seed=1))
    found = await fetch_from(far.place, f"/to/{far.place}")
    assert found.data == encoded("WAV", seed=1)


async def test_a_name_that_resolves_to_a_private_address_is_not_reached(far: Far) -> None:
    """Only a literal address is let through by being listed; a listed name still has to be public."""
    with pytest.raises(SourceError) as caught:
        await fetch_from(f"localhost:{far.server_port}", "/loop.wav")
    assert caught.value.code == "unsupported"
    assert far.asked == []


async def test_a_link_that_is_no_longer_listed_is_refused(far: Far) -> None:
    """A link is checked again where it is fetched, against the list of that moment."""
    with pytest.raises(InvalidInput):
        await fetch(Link("direct", f"http://{far.place}/loop.wav"), 0.0, Limits(), SourcesConfig())
    assert far.asked == []


async def test_a_server_that_hangs_ends_in_a_timeout(far: Far) -> None:
    """The wall clock ends a fetch whatever the far side does; neither a process nor a file is left."""
    task = asyncio.ensure_future(fetch_from(far.place, "/hang", Limits(download_timeout_s=4.0)))
    left = await until_waiting(far)
    with pytest.raises(SourceUnavailable) as caught:
        await task
    assert caught.value.code == "timeout"
    assert_nothing_left(*left)


async def test_cancelling_a_fetch_leaves_nothing(far: Far) -> None:
    """A fetch that is cancelled takes its process and its directory along before the cancellation is through."""
    task = asyncio.ensure_future(fetch_from(far.place, "/hang"))
    left = await until_waiting(far)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_nothing_left(*left)


async def test_a_process_that_dies_is_an_error_that_may_be_tried_again(far: Far) -> None:
    """When the fetching process is killed from outside the caller learns of it at once, as a recoverable error."""
    task = asyncio.ensure_future(fetch_from(far.place, "/hang"))
    left = await until_waiting(far)
    os.kill(left[0], signal.SIGKILL)
    with pytest.raises(RecoverableError, match="broke down"):
        await task
    assert_nothing_left(*left)


async def test_what_the_process_has_started_is_killed_with_it() -> None:
    """The end of a fetch takes the whole process group, so a JavaScript runtime at work goes too."""
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", "sleep 300 >/dev/null & echo $!; wait"),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    watched = os.pidfd_open(int(await process.stdout.readline()))
    await _end(process)
    ended, _, _ = await asyncio.to_thread(select.select, [watched], [], [], WAIT_S)
    os.close(watched)
    assert ended


_PARENT = """
import asyncio, sys
from gary.config import Limits, SourcesConfig
from gary.links import parse_link
from gary.sources.fetch import fetch

listed = (sys.argv[1],)
link = parse_link(f"http://{sys.argv[1]}/hang", listed)
asyncio.run(fetch(link, 0.0, Limits(), SourcesConfig(allow_direct_urls=listed)))
"""


async def test_the_process_dies_with_its_parent_and_knows_none_of_its_secrets(far: Far, tmp_path: Path) -> None:
    """Of a parent's environment nothing reaches the fetching process, and when the parent is killed, so that it can
    clean up nothing, the process goes too."""
    secret = "mongodb://user:secret@db.example.org"
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PARENT, far.place),
        env={**os.environ, "MONGODB_URI": secret, "HTTP_PROXY": f"http://{secret}", "TMPDIR": str(tmp_path)},
    )
    try:
        assert await asyncio.to_thread(far.waiting.wait, WAIT_S)
        (pid,) = fetching_pids(parent.pid)
        environment = environment_of(pid)
        watched = os.pidfd_open(pid)
    finally:
        parent.kill()
        await parent.wait()
    assert "secret" not in environment
    assert f"HOME={tmp_path}" in environment
    ended, _, _ = await asyncio.to_thread(select.select, [watched], [], [], WAIT_S)
    os.close(watched)
    assert ended


async def test_a_cookie_file_that_cannot_be_read_is_our_fault(tmp_path: Path) -> None:
    """A wrong setting of the operator's is told apart from a link that cannot be fetched."""
    sources = SourcesConfig(cookie_file=tmp_path / "missing.txt")
    with pytest.raises(FatalError) as caught:
        await fetch(Link("soundcloud", "https://soundcloud.com/artist/track"), 0.0, Limits(), sources)
    assert caught.value.code == "cookie_file"


_OWNER = """
import sys, tempfile, time
from gary.sources.fetch import _private_directory

tempfile.tempdir = sys.argv[1]
with _private_directory() as directory:
    (directory / "source.media").write_bytes(b"half of it")
    print(directory, flush=True)
    sys.stdin.read()
"""


def test_orphans_are_removed_and_nothing_else(tmp_path: Path) -> None:
    """A directory goes once the process that made it is gone, however that ended, and not before; other files, links
    and directories stay."""
    other, link = tmp_path / "other", tmp_path / "gary-fetch-link"
    other.mkdir()
    (other / "kept").touch()
    link.symlink_to(other)
    command = [sys.executable, "-c", _OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        directory = Path(owner.stdout.readline().strip())
        assert (remove_orphans(tmp_path), directory.exists()) == (0, True)
        owner.kill()
    assert directory.exists()
    assert (remove_orphans(tmp_path), directory.exists()) == (1, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gary-fetch-link", "other"]
    assert (other / "kept").exists()
