"""What is made once and asked for often, such as an MP3 that a player reads by ranges: kept while there is room."""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any


class Conversions:
    """The results that were used last, by key. Those who ask for the same at once wait for one making of it.

    Args:
        bytes_max: of all that is kept. What is larger alone is made anew each time.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[str, bytes] = OrderedDict()  # the one used last is the last
        self._kept_bytes = 0
        self._making: dict[str, asyncio.Task[bytes]] = {}

    @property
    def kept_bytes(self) -> int:
        return self._kept_bytes

    async def get(self, key: str, make: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """What `make` returns, or returned for this key before. Its errors are raised, and not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        making = self._making.get(key)
        if making is None:
            # of nobody's context: others may wait when the request that began it is cancelled
            making = asyncio.get_running_loop().create_task(make(), context=contextvars.Context())
            self._making[key] = making
            making.add_done_callback(lambda done: self._keep(key, done))
        return await asyncio.shield(making)

    def _keep(self, key: str, made: asyncio.Task[bytes]) -> None:
        del self._making[key]
        if made.cancelled() or made.exception() is not None or len(made.result()) > self._bytes_max:
            return
        self._kept[key] = made.result()
        self._kept_bytes += len(made.result())
        while self._kept_bytes > self._bytes_max:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)
