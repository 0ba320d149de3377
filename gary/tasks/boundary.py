"""The one place where pymongo's errors become ours. What is no fault of the database passes through unchanged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from bson.errors import BSONError
from gridfs.errors import CorruptGridFile, NoFile
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DocumentTooLarge,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
)

from gary.errors import DatabaseUnavailable, FatalError, RecoverableError, TooLarge

# Numbers of MongoDB's error codes (src/mongo/base/error_codes.yml).
_OUT_OF_DISK_SPACE = 14031
_INTERNAL = 1  # what the embedded server answers to everything from its first failed write on, a full disk included

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def database_errors() -> Iterator[None]:
    """Translates what is raised inside.

    Raises:
        DatabaseUnavailable: no server was found in time, it hung up, did not answer in time, or failed within; code
            `disk_full` where it says so. What was being written may or may not have been.
        RecoverableError: (code `audio_gone`) a file was replaced or has expired since its task was read.
        TooLarge: a document beyond MongoDB's 16 MB.
        FatalError: (code `database_refused`) the server refused: wrong credentials, URI or command.
    """
    try:
        yield
    except (NoFile, CorruptGridFile) as error:
        raise RecoverableError("the audio was replaced or has expired; read the task again", "audio_gone") from error
    except (ConnectionFailure, ExecutionTimeout) as error:
        raise DatabaseUnavailable(f"the database does not answer: {_first_line(error)}") from error
    except DocumentTooLarge as error:
        raise TooLarge("the task does not fit into the database's 16 MB document") from error
    except OperationFailure as error:
        if _OUT_OF_DISK_SPACE in _codes(error):
            raise DatabaseUnavailable("the database's disk is full", "disk_full") from error
        if _INTERNAL in _codes(error):
            raise DatabaseUnavailable(f"the database failed: {_first_line(error)}") from error
        if error.has_error_label("RetryableWriteError") or error.has_error_label("TransientTransactionError"):
            raise DatabaseUnavailable(f"the database is changing over: {_first_line(error)}") from error
        raise FatalError(f"the database refused: {_first_line(error)}", "database_refused") from error
    except (PyMongoError, BSONError) as error:
        raise FatalError(f"the database cannot be used so: {_first_line(error)}", "database_refused") from error


def translated(method: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """A coroutine function whose errors pass through `database_errors`."""

    @wraps(method)
    async def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with database_errors():
            return await method(*args, **kwargs)

    return inner


def _codes(error: OperationFailure) -> set[int | None]:
    """Of the failure, or of each write among many that failed."""
    if isinstance(error, BulkWriteError):
        return {write["code"] for write in error.details["writeErrors"]}
    return {error.code}


def _first_line(error: Exception) -> str:
    """pymongo appends whole topologies to its messages."""
    return str(error).partition(", Timeout:")[0].partition("\n")[0][:300]
