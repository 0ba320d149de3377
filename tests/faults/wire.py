"""The wire between the conductors and their database: it passes every byte on, and knows a completing write.

It is the observer of the suite: a task counts as completed as often as the database answered that it applied a write
that completes it, whatever the service says of itself. And it can hold such writes back, which is the only sure way
to be between a task's result and its end. It knows MongoDB's protocol (OP_MSG), and nothing of the service but the
name of its collection and its word for the end.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import bson

_HEADER = struct.Struct("<iiii")  # bytes in all, id, id of the message that it answers, kind
_OP_MSG = 2013


class Wire:
    """A proxy on a free port of 127.0.0.1 before a server on `server_port`, up or not.

    Attributes:
        completed: by task, how many completing writes the database applied.
        refused: by task, how many it did not apply, since the fence had moved on.
        unanswered: by task, how many it was sent and died over; it may have applied them.
    """

    def __init__(self, server_port: int) -> None:
        self.completed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.held: list[str] = []  # tasks whose completing write waits here
        self._server_port = server_port
        self._go = threading.Event()
        self._go.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"mongodb://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, name="wire", daemon=True).start()

    def hold(self) -> None:
        """Completing writes wait from now on."""
        self.held.clear()
        self._go.clear()

    def release(self) -> None:
        """What waited is sent, be its sender alive or not."""
        self._go.set()

    def close(self) -> None:
        self.release()
        self._listener.close()

    def saw_end(self, task_id: str) -> bool:
        """Whether a write passed that has completed the task, or may have."""
        return self.completed[task_id] + self.unanswered[task_id] > 0

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One connection, to its end on either side."""
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._server_port)) as server:
            sent: dict[int, str] = {}  # completing writes under way, by message id
            back = threading.Thread(target=self._bring_back, args=(server, client, sent), daemon=True)
            back.start()
            try:
                for message in _messages(client):
                    self._send(server, message, sent)
            finally:
                if sent:  # a sender that died: its write is under way all the same, and the answer counts
                    back.join(10)
                self.unanswered.update(sent.values())
                with suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)

    def _send(self, server: socket.socket, message: bytes, sent: dict[int, str]) -> None:
        task_id = _completes(message)
        if task_id is not None:
            if not self._go.is_set():
                self.held.append(task_id)
                self._go.wait()
            sent[_HEADER.unpack_from(message)[1]] = task_id
        server.sendall(message)

    def _bring_back(self, server: socket.socket, client: socket.socket, sent: dict[int, str]) -> None:
        with suppress(OSError):
            for message in _messages(server):
                task_id = sent.pop(_HEADER.unpack_from(message)[2], None)
                if task_id is not None:
                    applied = bson.decode(_body(message)).get("n") == 1
                    (self.completed if applied else self.refused)[task_id] += 1
                with suppress(OSError):
                    client.sendall(message)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@contextmanager
def wire_to(server_port: int) -> Iterator[Wire]:
    wire = Wire(server_port)
    try:
        yield wire
    finally:
        wire.close()


def _messages(source: socket.socket) -> Iterator[bytes]:
    """Whole messages, until the other side hangs up."""
    with source.makefile("rb") as stream:
        while len(header := stream.read(_HEADER.size)) == _HEADER.size:
            rest = _HEADER.unpack(header)[0] - _HEADER.size
            if len(body := stream.read(rest)) < rest:
                return
            yield header + body


def _completes(message: bytes) -> str | None:
    """The task that an update would complete, if it is such an update."""
    if _HEADER.unpack_from(message)[3] != _OP_MSG or b"completed\0" not in message:
        return None
    command = bson.decode(_body(message))
    if command.get("update") != "tasks":
        return None
    for update in [*command.get("updates", ()), *_sequence(message)]:
        if update["u"].get("$set", {}).get("status") == "completed":
            return str(update["q"]["_id"])
    return None


def _body(message: bytes) -> bytes:
    """The section of kind 0: the command, or its answer. It comes first in pymongo's messages and SecantusDB's."""
    start = _HEADER.size + 4 + 1  # flags, kind
    assert message[start - 1] == 0, "the command comes first"
    (length,) = struct.unpack_from("<i", message, start)
    return message[start : start + length]


def _sequence(message: bytes) -> list[dict[str, Any]]:
    """The documents of the section of kind 1, where there is one: an update's updates."""
    start = _HEADER.size + 4 + 1 + len(_body(message))
    if start >= len(message):
        return []
    (length,) = struct.unpack_from("<i", message, start + 1)
    name_end = message.index(b"\0", start + 5)
    return list(bson.decode_all(message[name_end + 1 : start + 1 + length]))
