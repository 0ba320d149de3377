"""Calls between deployments, with Ray's exceptions translated into ours at this one boundary.

A started call on a replica that dies is never retried by Serve: it arrives here as RecoverableError, and whoever
holds the task decides.
"""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator

from gary.errors import RecoverableError

Handle = DeploymentHandle[Any]
Response = DeploymentResponse[Any] | DeploymentResponseGenerator[Any]  # which of them, `stream` decides

_detached: set[asyncio.Task[Any]] = set()


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except RayTaskError as error:
        raise _origin(error) from error
    except (BackPressureError, DeploymentUnavailableError, RayServeException) as error:
        raise RecoverableError(f"{what} takes no calls at present", "unavailable") from error
    except RayError as error:
        raise RecoverableError(f"{what} was lost while it worked: {type(error).__name__}", "replica_lost") from error


def _origin(error: RayTaskError) -> BaseException:
    """What was raised first: a failed argument wraps its error once more for every call that waited for it."""
    cause: BaseException = error
    while isinstance(cause, RayTaskError) and isinstance(cause.cause, BaseException):
        cause = cause.cause
    return cause


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
