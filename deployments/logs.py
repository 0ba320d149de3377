"""Has a replica's process log in the form of `gary.logs`, and takes a task's id along on calls between replicas.

Serve opens the files, turns them over and closes them; only what is written into them is ours: JSON lines in the
replica's file, text on standard error where RAY_SERVE_LOG_TO_STDERR has not turned that off. Everything that anybody
logs in this process, libraries and warnings included, goes the same way.
"""

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from logging.handlers import MemoryHandler
from typing import Any
from weakref import WeakKeyDictionary

from ray import serve
from ray.serve import context as serve_context

from gary.logs import JsonLines, Origin, TextLines, about, request_id_of

_serve_log = logging.getLogger("ray.serve")


def begin() -> None:
    """To be called first in a deployment's constructor. Does nothing outside of a replica's process."""
    if not any(isinstance(handler, MemoryHandler) for handler in _serve_log.handlers):
        return
    context = serve.get_replica_context()
    _serve_log.addFilter(_Dresser(Origin(context.deployment, context.replica_tag, _request_id)))
    forward = _Forward()
    for name in ("", "ray"):  # the root of all, and Ray's, which keeps its records to itself
        logging.getLogger(name).handlers = [forward]
    logging.getLogger("gary").setLevel(logging.INFO)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a full disk must not write of itself to a standard error that is logged again


@contextmanager
def on_task(task_id: str) -> Iterator[None]:
    """Log lines of this context, and of the replicas that it calls, and that those call, carry the task's id.

    It travels as Serve's request id, which every call hands on. Serve has no public name for setting it;
    `tests/e2e/test_logs.py` shows that it still arrives.
    """
    variable: ContextVar[Any] = serve_context._serve_request_context  # noqa: SLF001
    now = serve_context._get_serve_request_context()  # noqa: SLF001
    token = variable.set(dataclasses.replace(now, request_id=request_id_of(task_id)))
    try:
        with about(task_id):
            yield
    finally:
        variable.reset(token)


def _request_id() -> str:
    return str(serve_context._get_serve_request_context().request_id)  # noqa: SLF001


class _Dresser(logging.Filter):
    """Sees that the handlers of Serve's logger write our lines. Serve makes new ones when its settings change in a
    running replica; the logger and its filters stay."""

    def __init__(self, origin: Origin) -> None:
        super().__init__()
        self._json, self._text = JsonLines(origin), TextLines(origin)
        self._targets: WeakKeyDictionary[MemoryHandler, logging.Handler] = WeakKeyDictionary()
        self._dress()

    def filter(self, record: logging.LogRecord) -> bool:
        self._dress()
        return True

    def _dress(self) -> None:
        for handler in _serve_log.handlers:
            target = self._target(handler) if isinstance(handler, MemoryHandler) else handler
            if target is not None:
                target.setFormatter(self._json if isinstance(target, logging.FileHandler) else self._text)

    def _target(self, handler: MemoryHandler) -> logging.Handler | None:
        """Where the handler writes to; given back to it after `logging.config.dictConfig`, which closes all handlers
        that there are. submitit calls it when audiocraft is imported, and Serve's would keep its records for ever."""
        if handler.target is not None:
            self._targets[handler] = handler.target
        elif handler in self._targets:
            handler.setTarget(self._targets[handler])
        return handler.target


class _Forward(logging.Handler):
    """Gives what is logged elsewhere in the process to Serve's logger."""

    def emit(self, record: logging.LogRecord) -> None:
        if _serve_log.isEnabledFor(record.levelno):
            _serve_log.handle(record)
