"""A request on its way through the batching engine's threads, and each of its takes. It knows events, and no model.

A request has one prompt and one fate: what ends one take in error ends all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from gary.engine.codec import StreamingDecoder
from gary.engine.request import GenerationEvent, GenerationRequest, Progress
from gary.errors import GaryError

_REPORTS = 100  # progress is told about so often in one request


@dataclass(eq=False)
class Take:
    """One answer of a request.

    Attributes:
        key: the core's.
        index: which of the request's takes.
        made_frames, sent_frames: the decode thread's: without the prompt's; to the codec thread, with the prompt's.
        stream, emitted_samples: the codec thread's.
    """

    ticket: Ticket
    key: int
    index: int
    made_frames: int = 0
    sent_frames: int = 0
    stream: StreamingDecoder | None = None
    emitted_samples: int = 0


@dataclass(eq=False)
class Ticket:
    """A request; `events` belongs to the event loop.

    Attributes:
        length_samples, answer_frames, prompt_frames: of each take, the prompt included in the first two.
        ended_takes: the codec thread's.
    """

    request: GenerationRequest
    loop: asyncio.AbstractEventLoop
    takes: list[Take] = field(default_factory=list)
    events: asyncio.Queue[GenerationEvent | GaryError | None] = field(default_factory=asyncio.Queue)
    aborted: bool = False
    length_samples: int = 0
    answer_frames: int = 0
    prompt_frames: int = 0
    ended_takes: int = 0
    _told_frames: int = 0  # as progress, over all takes

    @classmethod
    def of(cls, request: GenerationRequest, keys: Iterable[int]) -> Ticket:
        """In the event loop that will listen.

        Args:
            keys: of the takes.
        """
        ticket = cls(request, asyncio.get_running_loop())
        ticket.takes = [Take(ticket, key, index) for index, key in enumerate(keys)]
        return ticket

    @property
    def family(self) -> int:
        """What the scheduler knows its takes by as relatives."""
        return self.takes[0].key

    def tell(self, event: GenerationEvent | GaryError | None) -> None:
        """From any thread; None ends the request."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    @property
    def total_frames(self) -> int:
        """To be made, over all takes."""
        return len(self.takes) * (self.answer_frames - self.prompt_frames)

    def tell_progress(self) -> None:
        """Now and then, and at the end, where there is any."""
        made, total = sum(take.made_frames for take in self.takes), self.total_frames
        due = (made - self._told_frames) * _REPORTS >= total
        if made > self._told_frames and (due or made == total):
            self._told_frames = made
            self.tell(Progress(made, total))
