"""Calls between deployments, with Ray's exceptions translated into ours at this one boundary.

A started call on a replica that dies is never retried by Serve: it arrives here as RecoverableError, and whoever
holds the task decides.
"""

import asyncio
import contextvars
import errno
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ray import ObjectRef
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator

from deployments.spans import within
from deployments.tracing import OFF, Tracing
from gary.errors import ModelAway, RecoverableError

Handle = DeploymentHandle[Any]
Response = DeploymentResponse[Any] | DeploymentResponseGenerator[Any]  # which of them, `stream` decides

T = TypeVar("T")

_detached: set[asyncio.Task[Any]] = set()


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except RayTaskError as error:
        raise _ours(_origin(error), what) from error
    except (OutOfDiskError, ObjectStoreFullError) as error:
        raise _no_room(what) from error
    except (BackPressureError, DeploymentUnavailableError, RayServeException) as error:
        raise RecoverableError(f"{what} takes no calls at present", "unavailable") from error
    except RayError as error:
        raise _lost(what, error) from error


def _origin(error: RayTaskError) -> BaseException:
    """What was raised first: a failed argument wraps its error once more for every call that waited for it."""
    cause: BaseException = error
    while isinstance(cause, RayTaskError) and isinstance(cause.cause, BaseException):
        cause = cause.cause
    return cause


def _ours(error: BaseException, what: str) -> BaseException:
    """The callee's error; that of a full disk is nobody's bug and may be gone at the next attempt."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _no_room(what)
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        return _lost(what, error)
    return error


def _lost(what: str, error: RayError) -> RecoverableError:
    return RecoverableError(f"{what} was lost while it worked: {type(error).__name__}", "replica_lost")


def _no_room(what: str) -> RecoverableError:
    return RecoverableError(f"{what} has no room left on its disk", "disk_full")


def player(musicgen: Mapping[str, Handle], model: str) -> Handle:
    """The deployment that serves a model.

    Raises:
        ModelAway: none that this process knows: the task is of a newer version of the service, or of an older one.
    """
    if (handle := musicgen.get(model)) is None:
        raise ModelAway(f"the model {model!r} is not served by this version of the service")
    return handle


class Calls:
    """The calls of one piece of work: left by an error or a cancellation, it cancels all that are under way.

    Cancelling the call that is awaited does not reach those made before it; hence this list.

    Args:
        tracing, trace: where the work is told of as spans, and the traceparent that they hang below.

    Attributes:
        trace: the traceparent for calls that are made now: that of the stage under way.
    """

    def __init__(self, tracing: Tracing = OFF, trace: str | None = None) -> None:
        self._made: list[Response] = []
        self._tracing = tracing
        self.trace = trace

    @property
    def told(self) -> dict[str, str]:
        """What calls are given besides: the traceparent, where it is wanted.

        Where tracing is off, replicas of an older version, which know of none, are asked as they were.
        """
        return {} if self.trace is None else {"trace": self.trace}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The block as a span, and the calls that are made in it as its parts; each name once in one piece of work.

        A replica that dies tells nothing of the call that it had; this span then has the error.
        """
        around = self.trace
        with self._tracing.span(name, around, within(around, name)) as span:
            self.trace = span.trace
            try:
                yield
            finally:
                self.trace = around

    def made(self, response: Response) -> Response:
        """Notes a call."""
        self._made.append(response)
        return response

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        for response in self._made:
            # One that could not even be sent, its argument having failed, says so again: nobody wants to know.
            with suppress(RayError, RayServeException):
                response.cancel()  # type: ignore[no-untyped-call]


async def result(response: Response, what: str) -> Any:
    """Awaits a call.

    Args:
        what: the deployment, for the error's sentence.

    Raises:
        GaryError: the callee's own error.
        RecoverableError: the replica died, or none takes calls.
    """
    assert isinstance(response, DeploymentResponse)
    with _translated(what):
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise


@dataclass(frozen=True)
class Parcel(Generic[T]):
    """What a call returned, for another replica: it lies in the object store and is opened by whoever needs it.

    Not the response itself as an argument: where its replica's node has died, Serve's router takes the error of that
    argument for the next replica's, and tries again for ever (Ray 2.60, `Router.route_and_send_request`).
    """

    ref: ObjectRef[T]
    what: str

    async def open(self) -> T:
        """Errors as in `result`."""
        with _translated(self.what):
            contents: T = await self.ref
            return contents


async def parcel(response: Response, what: str) -> Parcel[Any]:
    """Waits for a call's end; what it returned does not come to this process. Errors as in `result`, or when opened."""
    assert isinstance(response, DeploymentResponse)
    with _translated(what):
        return Parcel(await response._to_object_ref(), what)  # noqa: SLF001  Ray's developer API


async def stream(responses: Response, what: str) -> AsyncGenerator[Any, None]:
    """Iterates over a streamed call; closing this iterator early cancels it. Errors as in `result`."""
    assert isinstance(responses, DeploymentResponseGenerator)
    with _translated(what):
        try:
            async for item in responses:
                yield item
        finally:
            responses.cancel()  # of no effect once it has ended


def detach(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` on this loop, outside the request that it was started in.

    Serve cancels what a handler started when its client goes away, through the context: hence an empty one.
    """
    task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
    _detached.add(task)
    task.add_done_callback(_detached.discard)
