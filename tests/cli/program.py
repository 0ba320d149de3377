"""The program `gary` as a person runs it: a process of its own, with a home of its own."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

TIMEOUT_S = 60
_PROGRAM = str(Path(sys.executable).with_name("gary"))


@dataclass(frozen=True)
class Said:
    """What a run left."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Gary:
    """Runs the program in a directory, against a service."""

    directory: Path
    base_url: str

    def __call__(self, *arguments: str) -> Said:
        done = subprocess.run(
            [_PROGRAM, *arguments],
            cwd=self.directory,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr.decode())

    def start(self, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([_PROGRAM, *arguments], cwd=self.directory, env=self.environment(), **streams)

    def on_terminal(self, *arguments: str, **more: str) -> str:
        """All that a run writes to the terminal that it has for stdout and stderr."""
        ours, theirs = os.openpty()
        env = self.environment(TERM="xterm-256color", **more)
        process = subprocess.Popen(
            [_PROGRAM, *arguments], cwd=self.directory, env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            shown = b"".join(iter(lambda: _until_hung_up(terminal), b""))
        assert process.wait(TIMEOUT_S) == 0, shown
        return shown.decode()

    def environment(self, **more: str) -> dict[str, str]:
        """Wide and plain, whatever this test run was started from."""
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "HOME")}
        home = {"XDG_STATE_HOME": str(self.directory / "state"), "GARY_URL": self.base_url, "COLUMNS": "100"}
        return kept | home | {"PYTHONUTF8": "1"} | more


def _until_hung_up(terminal: FileIO) -> bytes:
    """What was written next; nothing once the last process has closed the terminal."""
    try:
        return terminal.read(4096)
    except OSError as error:
        if error.errno == errno.EIO:
            return b""
        raise
