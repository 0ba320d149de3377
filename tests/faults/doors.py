"""Doors on a task's way that a test holds shut: files in a directory, so that any process sees them.

A stage that meets a shut door leaves its name there and waits until the door is opened.
"""

from __future__ import annotations

import asyncio
from pathlib import Path


class Doors:
    """Args:
    directory: shared by the test and the service's processes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True)

    def path(self, door: str) -> Path:
        """Exists while the door is shut."""
        return self._directory / door

    def shut(self, door: str) -> None:
        self.path(door).touch()

    def open(self, door: str) -> None:
        self.path(door).unlink(missing_ok=True)
        for sign in self._directory.glob(f"{door}.*"):
            sign.unlink()

    def is_shut(self, door: str) -> bool:
        return self.path(door).exists()

    def waiting(self, door: str) -> int:
        """How many have come to a door since it was shut."""
        return len(list(self._directory.glob(f"{door}.*")))

    async def go_through(self, door: str, who: str) -> None:
        if not self.is_shut(door):
            return
        (self._directory / f"{door}.{who}").touch()
        while self.is_shut(door):  # noqa: ASYNC110  no event reaches across processes
            await asyncio.sleep(0.02)
