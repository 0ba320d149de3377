"""A take as a file: whole, by a range of bytes, or not at all where the client has it already (RFC 9110)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from gary.api.services import Services
from gary.api.v1.accept import check_completed, check_take
from gary.api.v1.answers import MEDIA_TYPES
from gary.api.v1.conversions import Conversions
from gary.api.v1.live import LiveResponse
from gary.api.v1.problems import problem_answer
from gary.api.v1.ranges import Unsatisfiable, chosen_range, is_current, names_tag
from gary.api.v1.watch import Watch
from gary.config import MIB
from gary.errors import InvalidInput
from gary.tasks.music import Format, MusicJob
from gary.tasks.task import UNFINISHED, Task

CONVERTED_BYTES = 64 * MIB  # kept by one process
_REVALIDATED = "private, no-cache"  # it may be kept, and has to be asked for: a task may be forgotten


@dataclass(frozen=True)
class Wanted:
    """A take of a task, as a file of some format."""

    task: Task
    take: int
    format: Format

    @property
    def etag(self) -> str:
        """Strong: the same tag, the same bytes."""
        return f'"{self.source}-{self.format}"'

    @property
    def source(self) -> str:
        """Names the WAV file by what is in it; of an old task, which keeps no hash, by its id, for it never changes."""
        if self.task.takes:
            return f"{self.task.takes[self.take].wav_sha256[:32]}-{self.take}"
        assert self.task.result is not None, f"task {self.task.id} is {self.task.status} and has no audio"
        return f"{self.task.result.file_id}-{self.take}"

    @property
    def size_bytes(self) -> int:
        """Of the WAV file."""
        file = self.task.takes[self.take].wav if self.task.takes else self.task.result
        assert file is not None, f"task {self.task.id} is {self.task.status} and has no audio"
        return file.size_bytes

    @property
    def headers(self) -> dict[str, str]:
        name = f"gary-{self.task.id}-{self.take}.{self.format}"
        return {"Content-Disposition": f'inline; filename="{name}"', "X-Accel-Buffering": "no"}


class AudioShelf:
    """Answers requests for audio."""

    def __init__(self, services: Services, watch: Watch) -> None:
        self._services = services
        self._watch = watch
        self._conversions = Conversions(CONVERTED_BYTES)

    async def live(self, request: Request, wanted: Wanted) -> Response:
        """The take's WAV as it is made; of a completed task the file.

        Raises:
            InvalidInput: live_is_wav, unknown_take.
            Conflict: as `file`; (code `not_ready`) a task of the old routes is not completed.
        """
        if wanted.format != "wav":
            raise InvalidInput(f"live audio is wav, not {wanted.format}", "live_is_wav")
        task = wanted.task
        if task.status not in UNFINISHED or not isinstance(task.job, MusicJob):
            return await self.file(request, wanted)
        check_take(wanted.take, task.job.takes)
        headers = {**wanted.headers, "Accept-Ranges": "bytes", "Cache-Control": "no-store"}
        if _is_head(request):
            return Response(headers=headers, media_type=MEDIA_TYPES["wav"])
        asked = request.headers.get("range")
        return LiveResponse(self._services.store, self._watch, task, wanted.take, headers, asked)

    async def file(self, request: Request, wanted: Wanted) -> Response:
        """The take, or what of it the request asks for.

        Raises:
            Conflict: not_ready, task_failed, task_cancelled.
            InvalidInput: unknown_take.
            RecoverableError: (code `audio_gone`)
        """
        check_completed(wanted.task)
        check_take(wanted.take, len(wanted.task.takes) or 1)
        fixed = {"ETag": wanted.etag, "Cache-Control": _REVALIDATED, "Accept-Ranges": "bytes", **wanted.headers}
        if names_tag(request.headers.get("if-none-match"), wanted.etag):
            return Response(status_code=304, headers=fixed)
        data = await self._converted(wanted) if wanted.format != "wav" else None
        size_bytes = wanted.size_bytes if data is None else len(data)
        try:
            chosen = _chosen(request, wanted.etag, size_bytes)
        except Unsatisfiable:
            sentence = f"the file has {size_bytes} bytes, and the range begins beyond"
            return problem_answer(416, sentence, "range_not_satisfiable", {"Content-Range": f"bytes */{size_bytes}"})
        status, sent = (200, range(size_bytes)) if chosen is None else (206, chosen)
        headers = {**fixed, "Content-Length": str(len(sent))}
        if chosen is not None:
            headers["Content-Range"] = f"bytes {chosen.start}-{chosen.stop - 1}/{size_bytes}"
        media_type = MEDIA_TYPES[wanted.format]
        if _is_head(request):
            return Response(None, status, headers, media_type)
        if data is not None:
            return Response(data[sent.start : sent.stop], status, headers, media_type)
        _, chunks = await self._services.store.open_take(wanted.task, wanted.take, sent.start)
        return StreamingResponse(_first(chunks, len(sent)), status, headers, media_type)

    async def _converted(self, wanted: Wanted) -> bytes:
        return await self._conversions.get(wanted.etag, lambda: self._convert(wanted))

    async def _convert(self, wanted: Wanted) -> bytes:
        _, chunks = await self._services.store.open_take(wanted.task, wanted.take)
        wav = b"".join([chunk async for chunk in chunks])
        return await self._services.audio.convert(wav, wanted.format)


def _chosen(request: Request, etag: str, size_bytes: int) -> range | None:
    """The range that is asked for, where the client's other parts are still good. Raises Unsatisfiable."""
    if not is_current(request.headers.get("if-range"), etag):
        return None
    return chosen_range(request.headers.get("range"), size_bytes)


async def _first(chunks: AsyncIterator[bytes], length_bytes: int) -> AsyncIterator[bytes]:
    """So many bytes of the chunks, and no more of them than that takes."""
    left_bytes = length_bytes
    async for chunk in chunks:
        yield chunk[:left_bytes]
        left_bytes -= len(chunk)
        if left_bytes <= 0:
            return


def _is_head(request: Request) -> bool:
    return bool(getattr(request.state, "is_head", False))
