"""What the API needs of the rest of the house, as one value; deployments.ingress hands it in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gary.api.traffic import Traffic
from gary.config import AccessConfig, Limits, ModelSpec, SourcesConfig
from gary.errors import InvalidInput
from gary.tasks.music import Format
from gary.tasks.store import TaskStore
from gary.tasks.task import QueueState


class AudioDesk(Protocol):
    """Audio work that is answered at once; encoded bytes in, encoded bytes out: MP3 where no format is named.

    Each raises MediaError for bytes that are no audio, TooLarge (code `too_long`) for a clip over `Limits.clip_max_s`
    or `Limits.decoded_bytes`, InvalidInput for a range that cannot be cut.
    """

    async def probe(self, data: bytes) -> float:
        """Seconds of audio in `data`."""
        ...

    async def crop(self, data: bytes, start_s: float, end_s: float) -> bytes: ...

    async def join(self, clips: Sequence[bytes]) -> bytes: ...

    async def to_mp3(self, data: bytes) -> bytes: ...

    async def convert(self, wav: bytes, form: Format) -> bytes:
        """A WAV file of ours in that format; the same bytes each time."""
        ...

    async def crop_to(self, data: bytes, start_s: float, end_s: float | None, form: Format) -> bytes:
        """The stretch, its ends rounded to whole samples; None is the end. No sample changes in a lossless format."""
        ...

    async def join_to(self, clips: Sequence[bytes], form: Format) -> bytes:
        """Clips in order. Where rates and channels agree, no sample changes in a lossless format."""
        ...


@dataclass(frozen=True)
class Health:
    """Which parts answer, and how busy they are.

    Attributes:
        pytorch: every size of model takes calls.
        ray: so does everything else that a task passes.
        queue: None where the database does not answer.
        ready: replicas that passed their latest health check, by size of model.
    """

    mongodb: bool
    pytorch: bool
    ray: bool
    queue: QueueState | None
    ready: Mapping[str, int]

    @property
    def live(self) -> bool:
        return self.mongodb and self.pytorch and self.ray


@dataclass(frozen=True)
class Services:
    """Everything that a route may reach.

    Attributes:
        begin: has a task worked on; returns at once. A task begun twice is worked on once.
        health: answers in bounded time, whatever is down.
        new_seed: a seed for a request that brings none.
        traffic: is kept by the API.
    """

    store: TaskStore
    audio: AudioDesk
    begin: Callable[[str], None]
    health: Callable[[], Awaitable[Health]]
    new_seed: Callable[[], int]
    models: tuple[ModelSpec, ...]
    default_model: str
    limits: Limits
    access: AccessConfig
    sources: SourcesConfig
    traffic: Traffic = field(default_factory=Traffic)

    def model(self, name: str | None) -> ModelSpec:
        """The model of that name; None is the default.

        Raises:
            InvalidInput: the list does not name it.
        """
        wanted = name or self.default_model
        for model in self.models:
            if model.name == wanted:
                return model
        names = ", ".join(model.name for model in self.models)
        raise InvalidInput(f"model {wanted[:80]!r} is not served here; choose one of: {names}", "unknown_model")
