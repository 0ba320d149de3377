"""A listed host that means no good: it sends on to elsewhere, or names others in what it serves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Far(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, tuple[str, bytes]] = {}  # path -> (content type, body)
        self.targets: dict[str, str] = {}  # path -> Location
        self.asked: list[str] = []

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def send_on(self, index: int, target: str) -> str:
        """The path that redirects to `target`; a path of this host is its own."""
        if target.startswith("/") and not target.startswith("//"):
            return target
        self.targets[f"/on/{index}"] = target
        return f"/on/{index}"

    def place_lures(self, lure: str) -> None:
        """Serves pages and lists of all kinds that name `lure`."""
        head = "#EXTM3U\n#EXT-X-TARGETDURATION:9"
        feed = f"<rss><channel><item><enclosure url='{lure}'/></item></channel></rss>"
        self.files = {
            "/page": ("text/html", f"<!doctype html><html><audio src='{lure}'></audio><iframe src='{lure}'>".encode()),
            "/list.m3u8": ("application/vnd.apple.mpegurl", f"{head}\n#EXTINF:9,\n{lure}\n#EXT-X-ENDLIST".encode()),
            "/manifest.mpd": (
                "application/dash+xml",
                '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
                'mimeType="audio/mp4"><Representation id="1" bandwidth="1">'
                f"<BaseURL>{lure}</BaseURL></Representation></AdaptationSet></Period></MPD>".encode(),
            ),
            "/feed": ("application/xml", feed.encode()),
            "/smil": ("application/smil", f"<smil><body><audio src='{lure}'/></body></smil>".encode()),
            "/refresh": ("text/html", f"<html><meta http-equiv='refresh' content='0; url={lure}'></html>".encode()),
        }

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in mid-answer is what these tests are about."""


class _Answer(BaseHTTPRequestHandler):
    server: Far

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        target = self.path if self.path == "/redirect-for-ever" else self.server.targets.get(self.path)
        if target is not None:
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
        elif self.path in self.server.files:
            content_type, body = self.server.files[self.path]
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it so
        """Quiet."""


@contextmanager
def far_side() -> Iterator[Far]:
    with Far() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
