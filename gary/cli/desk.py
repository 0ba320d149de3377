"""Where commands speak from: the client, the two consoles, `--json`, and the exit codes.

What a program reads goes to stdout, one JSON document or plain text; progress and errors go to stderr. The client's
errors become exit codes here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from gary.client import Client, ClientError, Refused, StreamBroken


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    INTERRUPTED = 130


@dataclass(frozen=True)
class Desk:
    """What every command is given.

    Attributes:
        stdout, stderr: consoles; colours only on a terminal, and none with NO_COLOR.
        as_json: stdout gets one JSON document and nothing else.
    """

    client: Client
    stdout: Console
    stderr: Console
    as_json: bool

    def answer(self, document: BaseModel | dict[str, Any]) -> None:
        """Prints the command's one document."""
        if isinstance(document, BaseModel):
            document = document.model_dump(mode="json")
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))

    def say(self, text: str | Text) -> None:
        """A line for people, on stdout."""
        self.stdout.print(text, soft_wrap=True)

    def note(self, text: str | Text) -> None:
        """A line beside the answer, on stderr."""
        self.stderr.print(text, soft_wrap=True)


@contextmanager
def at_desk(url: str | None, as_json: bool) -> Iterator[Desk]:
    """A desk for one command; whatever the client raises inside ends it with a sentence and an exit code."""
    try:
        client = Client(url)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from error
    with client:
        desk = Desk(client, _console(stderr=False), _console(stderr=True), as_json)
        try:
            yield desk
        except ClientError as error:
            _tell(desk, error)
            raise typer.Exit(_exit_code(error)) from error
        except OSError as error:  # of files; the network's are the client's errors
            _tell(desk, ClientError(f"{error.filename or 'output'}: {error.strerror}", "file"))
            raise typer.Exit(Exit.FAILED) from error
        except KeyboardInterrupt as error:
            desk.note("interrupted")
            raise typer.Exit(Exit.INTERRUPTED) from error


def _console(stderr: bool) -> Console:
    """One that prints what it is given: no markup, no emoji, no colours of its own in names and numbers."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def _exit_code(error: ClientError) -> Exit:
    if isinstance(error, Refused):
        return Exit.REFUSED
    return Exit.FAILED if isinstance(error, StreamBroken) else Exit.UNREACHABLE


def _tell(desk: Desk, error: ClientError) -> None:
    fields = error.fields if isinstance(error, Refused) else ()
    if desk.as_json:
        details = [{"field": field, "message": message} for field, message in fields]
        what = {"code": error.code, "message": error.message, "status": error.status, "errors": details}
        desk.answer({"error": what})
    desk.note(Text.assemble(("error: ", "bold red"), error.message))
    for field, message in fields:
        desk.note(f"  {field}: {message}")
    if isinstance(error, Refused) and error.retry_after_s is not None:
        desk.note(f"  try again in {error.retry_after_s:g} s")
