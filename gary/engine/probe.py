"""Whether a replica's model has made a real pass lately. It knows requests and their events, and no device.

A process that answers proves nothing about its device: a GPU may hang or compute without end. So whoever is idle for a
while makes a short answer of its own, and whoever is at work must be heard of.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from time import monotonic

from gary.engine.request import AudioStretch, Engine, GenerationEvent, GenerationRequest, Progress
from gary.errors import DeviceError, GaryError

_PROBE_DURATION_S = 0.1  # five frames: every part of the engine runs once
_PROBE_LIMIT_S = 20.0  # under the time that Serve gives a health check


class Probe:
    """Watches an engine's requests, and makes one of its own when there have been none.

    Args:
        idle_s: a pass is lately for so long.
        stall_s: an engine at work that is not heard of for so long has failed.
        clock_s: a clock that does not jump.
    """

    def __init__(self, idle_s: float, stall_s: float, clock_s: Callable[[], float] = monotonic) -> None:
        self._idle_s = idle_s
        self._stall_s = stall_s
        self._clock_s = clock_s
        self._last_pass_s = clock_s()
        self._under_way = 0
        self._numbers = itertools.count()

    async def watch(self, events: AsyncGenerator[GenerationEvent, None]) -> AsyncGenerator[GenerationEvent, None]:
        """Passes a request's events on, and takes note of those that only a pass can have brought."""
        if not self._under_way:
            self._last_pass_s = self._clock_s()  # it was idle: the time to be heard of begins now
        self._under_way += 1
        try:
            async for event in events:
                if isinstance(event, AudioStretch) or (isinstance(event, Progress) and event.frames_done):
                    self._last_pass_s = self._clock_s()
                yield event
        finally:
            self._under_way -= 1
            await events.aclose()

    async def check(self, engine: Engine) -> None:
        """Makes sure of a pass lately.

        Raises:
            DeviceError: the engine is at work and silent, or a short answer failed or did not come.
        """
        silent_s = self._clock_s() - self._last_pass_s
        if self._under_way:
            if silent_s > self._stall_s:
                raise DeviceError(f"the model is at work and has made nothing for {silent_s:.0f} s", "stalled")
        elif silent_s > self._idle_s:
            await self._make_one(engine)

    async def _make_one(self, engine: Engine) -> None:
        request = GenerationRequest(id=f"probe-{next(self._numbers)}", duration_s=_PROBE_DURATION_S, seed=0)
        try:
            async with asyncio.timeout(min(self._stall_s, _PROBE_LIMIT_S)):
                async for _ in engine.generate(request, None):
                    pass
        except TimeoutError as error:
            raise DeviceError("the model was idle and did not make a pass when it was asked to", "stalled") from error
        except GaryError as error:
            raise DeviceError(f"the model's probe failed: {error}") from error
        self._last_pass_s = self._clock_s()
