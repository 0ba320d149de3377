"""A take as it is made, as a WAV file whose length is known from its first byte on.

What a listener has received whole is the stored file, bit for bit: the last sample is sent only once the task is
completed, and out of the file. Another attempt at the task is followed only if it has made the same so far.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gary.api.v1.accept import check_completed
from gary.api.v1.ranges import Unsatisfiable, chosen_range
from gary.api.v1.watch import Listener, Watch
from gary.errors import DatabaseUnavailable, RecoverableError
from gary.tasks.live import LiveChunk
from gary.tasks.music import Sheet
from gary.tasks.task import UNFINISHED, Status, Task

LOOK_S = 0.1
HEADER_BYTES = 44
SAMPLE_BYTES = 2
_BEFORE_MAKING = frozenset({Status.QUEUED, Status.FETCHING})

_log = logging.getLogger(__name__)


class LiveAudio(Protocol):
    """What of the task store is needed here."""

    async def live(self, task_id: str, fence: int, take: int, from_sample: int) -> list[LiveChunk]: ...

    async def open_take(self, task: Task, take: int, start_byte: int = 0) -> tuple[int, AsyncIterator[bytes]]: ...


class Tally:
    """Samples of a take, as many as there were, and which."""

    def __init__(self, frame_bytes: int) -> None:
        self._frame_bytes = frame_bytes
        self._sha = hashlib.sha256()
        self.bytes = 0

    @property
    def samples(self) -> int:
        """Per channel; whole ones alone are counted."""
        return self.bytes // self._frame_bytes

    @property
    def sha256(self) -> str:
        return self._sha.hexdigest()

    def add(self, pcm: bytes) -> None:
        self._sha.update(pcm)
        self.bytes += len(pcm)


class LiveTake:
    """One listener's way through a take.

    Args:
        listener: of a task that makes music.
    """

    def __init__(self, store: LiveAudio, listener: Listener, take: int) -> None:
        self._store = store
        self._listener = listener
        self._take = take
        self._fence = listener.task.fence  # of the attempt that is followed

    async def sheet(self) -> Sheet:
        """What is being made, as soon as it is known. Raises Conflict where nothing will be."""
        while True:
            task = self._listener.task
            if task.status not in UNFINISHED:
                check_completed(task)
            if task.sheet is not None and task.status not in _BEFORE_MAKING:
                self._fence = task.fence
                return task.sheet
            await self._listener.changed()

    async def file(self, sheet: Sheet) -> AsyncGenerator[bytes, None]:
        """The file's bytes, as they come.

        Args:
            sheet: as `sheet` told it.

        Raises:
            RecoverableError: (code `audio_gone`) it will not become the file that was begun.
        """
        sent = Tally(SAMPLE_BYTES * sheet.channels)
        yield wav_header(sheet)
        async with aclosing(self._while_made(sheet, sent)) as parts:
            async for part in parts:
                yield part
        size_bytes, chunks = await self._store.open_take(self._listener.task, self._take, HEADER_BYTES + sent.bytes)
        if size_bytes != file_bytes(sheet):
            raise _broken_off(f"the file has {size_bytes} bytes, and was to have {file_bytes(sheet)}")
        async for chunk in chunks:
            yield chunk

    async def _while_made(self, sheet: Sheet, sent: Tally) -> AsyncGenerator[bytes, None]:
        """All but the last sample, or less where the task is completed before."""
        frame_bytes = SAMPLE_BYTES * sheet.channels
        last_byte = (sheet.length_samples - 1) * frame_bytes
        made = sent  # what is known of the present attempt: what was sent, or less of one that has begun anew
        while (task := self._listener.task).status is not Status.COMPLETED:
            if task.status not in UNFINISHED:
                raise _broken_off(f"the task is {task.status}")
            if task.sheet is None or task.status in _BEFORE_MAKING:
                await self._listener.changed()
                continue
            if task.fence != self._fence:
                _require_same_shape(sheet, task.sheet)
                self._fence, made = task.fence, Tally(frame_bytes) if sent.bytes else sent
            before_bytes = made.bytes
            for chunk in await self._chunks(made.samples):
                if chunk.start_sample != made.samples:
                    break  # one before it was lost, and the file alone will tell
                pcm = chunk.pcm
                if made is not sent:
                    known = pcm[: sent.bytes - made.bytes]
                    made.add(known)
                    if made.bytes < sent.bytes:
                        continue
                    _require_same(made, sent)
                    made, pcm = sent, pcm[len(known) :]
                if part := pcm[: last_byte - sent.bytes]:
                    sent.add(part)
                    yield part
            if made.bytes == before_bytes:
                await self._listener.changed(None if made.bytes >= last_byte else LOOK_S)
        if made is not sent or task.fence != self._fence:
            await self._require_same_file(task, sent)

    async def _chunks(self, from_sample: int) -> list[LiveChunk]:
        """Those that are there; none while the database does not answer."""
        try:
            return await self._store.live(self._listener.task.id, self._fence, self._take, from_sample)
        except DatabaseUnavailable as error:
            _log.info("live audio waits: %s", error)
            return []

    async def _require_same_file(self, task: Task, sent: Tally) -> None:
        """The file has to begin with what was sent."""
        stored = Tally(1)
        _, chunks = await self._store.open_take(task, self._take, HEADER_BYTES)
        async for chunk in chunks:
            stored.add(chunk[: sent.bytes - stored.bytes])
            if stored.bytes == sent.bytes:
                break
        _require_same(stored, sent)


class LiveResponse(Response):
    """Streams a take; before the first byte it waits until the take's length is known.

    A client that goes away ends it at once, be it before the answer began.

    Args:
        task: as it was just read.
        headers: without a length.
        asked: a Range header. A browser's audio element seeks by ranges, and where it is refused them starts anew.
    """

    def __init__(
        self,
        store: LiveAudio,
        watch: Watch,
        task: Task,
        take: int,
        headers: Mapping[str, str],
        asked: str | None = None,
    ) -> None:
        super().__init__(headers=headers, media_type="audio/wav")
        self._asked = asked
        self._store = store
        self._watch = watch
        self._task = task
        self._take = take

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in (sending, leaving):
                part.cancel()
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _send(self, send: Send) -> None:
        async with self._watch.listening(self._task) as listener:
            live = LiveTake(self._store, listener, self._take)
            sheet = await live.sheet()
            status, sent = self._sent(file_bytes(sheet))
            await send({"type": "http.response.start", "status": status, "headers": self.raw_headers})
            async with aclosing(live.file(sheet)) as whole, aclosing(_cut(whole, sent)) as parts:
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _sent(self, size_bytes: int) -> tuple[int, range]:
        """Status and bytes of the answer, its headers being set; all of it where the range cannot be served."""
        try:
            chosen = chosen_range(self._asked, size_bytes)
        except Unsatisfiable:
            chosen = None
        if chosen is not None:
            self.headers["content-range"] = f"bytes {chosen.start}-{chosen.stop - 1}/{size_bytes}"
        status, sent = (200, range(size_bytes)) if chosen is None else (206, chosen)
        self.headers["content-length"] = str(len(sent))
        return status, sent


def file_bytes(sheet: Sheet) -> int:
    """Length of a take's file."""
    return HEADER_BYTES + sheet.length_samples * SAMPLE_BYTES * sheet.channels


def wav_header(sheet: Sheet) -> bytes:
    """The plain header of a file of 16-bit PCM, as the stored files have it (RIFF, 44 bytes)."""
    frame_bytes = SAMPLE_BYTES * sheet.channels
    data_bytes = sheet.length_samples * frame_bytes
    riff = struct.pack("<4sI4s", b"RIFF", HEADER_BYTES - 8 + data_bytes, b"WAVE")
    rates = (sheet.sample_rate_hz, sheet.sample_rate_hz * frame_bytes, frame_bytes, 8 * SAMPLE_BYTES)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, sheet.channels, *rates)
    return riff + form + struct.pack("<4sI", b"data", data_bytes)


def _require_same_shape(begun: Sheet, anew: Sheet) -> None:
    def shape(sheet: Sheet) -> tuple[int, int, int]:
        return sheet.sample_rate_hz, sheet.channels, sheet.length_samples

    if shape(begun) != shape(anew):
        raise _broken_off("another attempt at the task makes music of another length")


def _require_same(made: Tally, sent: Tally) -> None:
    if (made.bytes, made.sha256) != (sent.bytes, sent.sha256):
        raise _broken_off("another attempt at the task makes other music")


def _broken_off(reason: str) -> RecoverableError:
    """Half of the answer is out: all that can be done is to break the connection."""
    return RecoverableError(f"live audio is broken off: {reason}", "audio_gone")


async def _cut(whole: AsyncGenerator[bytes, None], wanted: range) -> AsyncGenerator[bytes, None]:
    """Those of the bytes that are wanted, as they come."""
    at_byte = 0
    async for part in whole:
        piece = part[max(0, wanted.start - at_byte) : max(0, wanted.stop - at_byte)]
        at_byte += len(part)
        if piece:
            yield piece
        if at_byte >= wanted.stop:
            return


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
