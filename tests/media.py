"""A loopback HTTP server of the tests' own, in the place of the sites that music comes from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class MediaServer:
    """Serves bytes by path. `hold` makes a path wait until it is released, so that a test can act in mid-download."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.host = f"127.0.0.1:{server.server_address[1]}"
        self._files: dict[str, tuple[bytes, str]] = {}
        self._refused: dict[str, int] = {}
        self._held: dict[str, threading.Event] = {}
        self._asked: dict[str, threading.Event] = {}

    def put(self, path: str, data: bytes, content_type: str = "audio/wav") -> str:
        """Serves `data` at `path`; returns its URL."""
        self._refused.pop(path, None)
        self._files[path] = (data, content_type)
        return f"http://{self.host}{path}"

    def refuse(self, path: str, status: int) -> str:
        """Answers requests for `path` with an error, until something is put there; returns its URL."""
        self._asked[path] = threading.Event()
        self._refused[path] = status
        return f"http://{self.host}{path}"

    def hold(self, path: str) -> threading.Event:
        """Requests for `path` wait from now on, until the event that is returned is set."""
        self._asked[path] = threading.Event()
        self._held[path] = threading.Event()
        return self._held[path]

    def wait_until_asked(self, path: str, timeout_s: float) -> bool:
        """Whether somebody has asked for a path that is held or refused."""
        return self._asked[path].wait(timeout_s)

    def answer(self, handler: BaseHTTPRequestHandler, body: bool) -> None:
        path = handler.path.split("?")[0]
        if path in self._asked:
            self._asked[path].set()
        if path in self._held:
            self._held[path].wait(120)
        if path in self._refused:
            handler.send_error(self._refused[path])
            return
        if path not in self._files:
            handler.send_error(404)
            return
        data, content_type = self._files[path]
        handler.send_response(200)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if body:
            handler.wfile.write(data)


@contextmanager
def media_server() -> Iterator[MediaServer]:
    """Runs a server on a free port for the time of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            media.answer(self, body=True)

        def do_HEAD(self) -> None:
            media.answer(self, body=False)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up in mid-answer is part of the tests."""

    with Server(("127.0.0.1", 0), Handler) as server:
        media = MediaServer(server)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield media
        finally:
            server.shutdown()
            thread.join()
