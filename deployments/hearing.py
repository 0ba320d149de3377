"""One generation in its trace, by what its engine tells.

play        all of it
load        until the model is there: short, but for one that has to be loaded
prompt      until the prompt is codes
prefill     until the first frames are drawn: text, waiting for a slot, the prompt's pass
take        one for each, from the prompt's codes to its own last ones; an event where its first audio came

All lie below the caller's stage, beside each other: what a replica had told when it was killed still has its parent.
"""

from types import TracebackType
from typing import Self

from deployments.spans import Fact, Span, code_of
from deployments.tracing import Tracing
from gary.engine.request import AudioStretch, Began, GenerationEvent, GenerationRequest, Progress, TakeCodes


class Hearing:
    """Its block is the generation; what is open when an error leaves the block ends by that error.

    Args:
        parent: a traceparent; None: nothing is told.
    """

    def __init__(self, tracing: Tracing, parent: str | None, model: str, request: GenerationRequest) -> None:
        self._tracing = tracing
        self._parent = parent
        self._facts: dict[str, Fact] = {"model": model, "length_s": request.duration_s}
        self._takes = request.takes
        self._open: dict[str, Span] = {}  # by name, a take's with its number
        self._heard: set[int] = set()

    def __enter__(self) -> Self:
        self._whole = self._tracing.begin("play", self._parent)
        self._whole.note(takes=self._takes, **self._facts)
        self._begin("load")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        code = code_of(error) if error is not None else None
        for name in list(self._open):
            self._end(name, code)
        self._whole.end(code)

    def loaded(self) -> None:
        """The engine is there, and has been asked."""
        self._end("load")
        self._begin("prompt")

    def hear(self, event: GenerationEvent) -> None:
        if not isinstance(event, Began):
            self._prompt_is_read()
        match event:
            case Progress(frames_done=frames) if frames > 0:
                self._end("prefill")
            case AudioStretch(take=take):
                self._first_audio(take)
            case TakeCodes(take=take, codes=codes):
                if span := self._open.get(f"take {take}"):
                    span.note(frames=codes.shape[1])
                self._end(f"take {take}")

    def _prompt_is_read(self) -> None:
        """At the first event after `Began`."""
        if "prompt" in self._open:
            self._end("prompt")
            self._begin("prefill")
            for take in range(self._takes):
                self._begin("take", f"take {take}")
                self._open[f"take {take}"].note(take=take, **self._facts)

    def _first_audio(self, take: int) -> None:
        if take not in self._heard:
            self._heard.add(take)
            self._end("prefill")
            if span := self._open.get(f"take {take}"):
                span.event("first audio")

    def _begin(self, name: str, key: str | None = None) -> None:
        self._open[key or name] = self._tracing.begin(name, self._parent)

    def _end(self, key: str, code: str | None = None) -> None:
        if span := self._open.pop(key, None):
            span.end(code)
