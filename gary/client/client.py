"""The client: one method for each thing that the service does, synchronous, with typed answers.

Nothing is asked twice that would be done twice: requests that make a task carry an Idempotency-Key of their own, and
cancelling asks for what is unfinished only, so that it never forgets a task that has just been completed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Self
from uuid import uuid4

from pydantic import JsonValue, RootModel

from gary.client.errors import Refused
from gary.client.events import Event, follow
from gary.client.order import Format, Order, Source, UploadSource
from gary.client.values import Health, Models, Task
from gary.client.wire import Patience, Wire

DEFAULT_URL = "http://127.0.0.1:8000"
PATIENCE = Patience()
_DEFAULTS = Order()

Audio = Path | bytes


@dataclass(frozen=True, eq=False)
class LiveStream:
    """A WAV while it is made; its header tells the final length from the start.

    Attributes:
        size_bytes: of the whole file.
        chunks: raises StreamBroken where the task fails meanwhile.
    """

    size_bytes: int
    chunks: Iterator[bytes]


class Client:
    """Speaks with one service. Close it, or use it in a `with` block.

    Every method may raise ServiceUnreachable, ServiceFailed (5xx) and Refused (4xx); see `gary.client.errors`.

    Args:
        base_url: None reads GARY_URL, and is http://127.0.0.1:8000 without it.
        api_key: None reads GARY_API_KEY; without it none is shown.

    Raises:
        ValueError: the base URL is none.
    """

    def __init__(self, base_url: str | None = None, api_key: str | None = None, patience: Patience = PATIENCE) -> None:
        address = base_url or os.environ.get("GARY_URL") or DEFAULT_URL
        self._wire = Wire(address, api_key or os.environ.get("GARY_API_KEY"), patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._wire.close()

    @property
    def base_url(self) -> str:
        return self._wire.base_url

    def create(self, source: Source, order: Order = _DEFAULTS, file: Audio | None = None) -> Task:
        """Begins a task.

        Args:
            file: the upload, with an UploadSource and with no other.

        Raises:
            ValueError: a file is missing, or does not go with the source.
            OSError: the file cannot be read.
        """
        if (file is not None) != isinstance(source, UploadSource):
            raise ValueError("a file goes with an UploadSource, and with no other source")
        body = {"source": source.model_dump(exclude_none=True), **order.body()}
        if file is None:
            return self._begun("/v1/tasks", json=body)
        task = RootModel[dict[str, Any]](body).model_dump_json()
        with _opened([file]) as (part,):
            return self._begun("/v1/tasks", files=[("task", (None, task, "application/json")), ("file", part)])

    def continue_(
        self,
        task_id: str,
        order: Order = _DEFAULTS,
        *,
        take: int | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> Task:
        """Begins a child: goes on from a take of a finished task, or from its stretch [start_s, end_s)."""
        stretch = {"take": take, "start_s": start_s, "end_s": end_s}
        body = {name: value for name, value in stretch.items() if value is not None}
        return self._begun(f"/v1/tasks/{task_id}/continue", json=body | order.body())

    def get(self, task_id: str) -> Task:
        return self._wire.parsed(Task, self._got(f"/v1/tasks/{task_id}"))

    def events(self, task_id: str, last_id: str | None = None) -> Iterator[Event]:
        """Changes of state and progress, as they come, until the task is over; lost connections are made again."""
        return follow(self._wire, task_id, last_id)

    def wait(self, task_id: str, on_progress: Callable[[Task], None] | None = None) -> Task:
        """The task when it is over, completed or not.

        Args:
            on_progress: is given the task at each of its events, the last included.
        """
        for event in self.events(task_id):
            if on_progress is not None:
                on_progress(event.task)
        return self.get(task_id)

    def audio(self, task_id: str, format: Format = "wav", take: int = 0) -> bytes:  # noqa: A002  the API's word
        """A finished take as a file's bytes; Refused (code `not_ready`) before it is finished."""
        return self._got(f"/v1/tasks/{task_id}/audio", params={"format": format, "take": take})

    def save_audio(self, task_id: str, path: Path, format: Format = "wav", take: int = 0) -> int:  # noqa: A002
        """Writes a finished take to a file, which is there whole or not at all.

        Returns:
            Its size in bytes.

        Raises:
            OSError: the file cannot be written.
            StreamBroken: the connection was lost, the last time too.
        """
        return self._wire.repeated(lambda: self._save_once(task_id, path, format, take))

    @contextmanager
    def live(self, task_id: str, take: int = 0) -> Iterator[LiveStream]:
        """Opens a take as a WAV that comes as it is made: byte for byte the file that is stored in the end.

        The service answers once it knows the length, so wait for `Task.music` first.
        """
        with self._wire.open(f"/v1/tasks/{task_id}/audio", params={"live": 1, "take": take}) as response:
            size_bytes = int(response.headers.get("Content-Length", 0))
            yield LiveStream(size_bytes, self._wire.chunks(response))

    def cancel(self, task_id: str) -> Task:
        """Cancels a task; one that is over stays as it is. The task as it stands then."""
        return self._wire.repeated(lambda: self._cancel_once(task_id))

    def forget(self, task_id: str) -> None:
        """Deletes a finished task with its audio.

        Raises:
            Refused: code `unfinished` (cancel it first) or `has_unfinished_children`.
        """
        sent = 0

        def once() -> None:
            nonlocal sent
            sent += 1
            self._wire.request("DELETE", f"/v1/tasks/{task_id}", params={"only": "finished"})

        try:
            self._wire.repeated(once)
        except Refused as error:
            if error.status != HTTPStatus.NOT_FOUND or sent == 1:  # else an attempt whose answer was lost did it
                raise

    def models(self) -> Models:
        return self._wire.parsed(Models, self._got("/v1/models"))

    def limits(self) -> dict[str, JsonValue]:
        """What the service takes, by names that carry their units."""
        return self._wire.parsed(RootModel[dict[str, JsonValue]], self._got("/v1/limits")).root

    def health(self) -> Health:
        """How the service is, down or not."""
        answer = self._wire.request("GET", "/health", accept=[HTTPStatus.SERVICE_UNAVAILABLE])
        return self._wire.parsed(Health, answer.content)

    def crop(
        self,
        audio: Audio,
        start_s: float = 0.0,
        end_s: float | None = None,
        format: Format = "wav",  # noqa: A002
    ) -> bytes:
        """The stretch [start_s, end_s) of a file, exact to the sample in wav and flac; end_s None is its end."""
        params: dict[str, str | float] = {"start_s": start_s, "format": format}
        if end_s is not None:
            params["end_s"] = end_s
        data = audio if isinstance(audio, bytes) else audio.read_bytes()
        headers = {"Content-Type": "application/octet-stream"}
        request = partial(self._wire.request, "POST", "/v1/audio/crop", params=params, headers=headers, content=data)
        return self._wire.repeated(request).content

    def join(self, clips: Sequence[Audio], format: Format = "wav") -> bytes:  # noqa: A002
        """Files one after the other, as one."""
        with _opened(clips) as parts:
            files = [("file", part) for part in parts]
            request = partial(self._wire.request, "POST", "/v1/audio/join", params={"format": format}, files=files)
            return self._wire.repeated(request).content

    def _begun(self, path: str, **content: Any) -> Task:
        headers = {"Idempotency-Key": str(uuid4())}
        answer = self._wire.repeated(lambda: self._wire.request("POST", path, headers=headers, **content))
        return self._wire.parsed(Task, answer.content)

    def _got(self, path: str, **content: Any) -> bytes:
        return self._wire.repeated(lambda: self._wire.request("GET", path, **content)).content

    def _cancel_once(self, task_id: str) -> Task:
        try:
            answer = self._wire.request("DELETE", f"/v1/tasks/{task_id}", params={"only": "unfinished"})
        except Refused as error:
            if error.code != "finished":
                raise
            return self.get(task_id)
        return self._wire.parsed(Task, answer.content)

    def _save_once(self, task_id: str, path: Path, format: Format, take: int) -> int:  # noqa: A002
        params: dict[str, str | int] = {"format": format, "take": take}
        with (
            self._wire.open(f"/v1/tasks/{task_id}/audio", params=params) as response,
            _whole_file(path) as file,
        ):
            return sum(file.write(chunk) for chunk in self._wire.chunks(response))


@contextmanager
def _opened(clips: Sequence[Audio]) -> Iterator[list[tuple[str, BinaryIO | bytes, str]]]:
    """Each as the part of a form; httpx rewinds files when it sends them again."""
    with ExitStack() as stack:
        yield [
            ("audio", clip, "application/octet-stream")
            if isinstance(clip, bytes)
            else (clip.name, stack.enter_context(clip.open("rb")), "application/octet-stream")
            for clip in clips
        ]


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only when all is written; a device or a pipe is written as it is."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
