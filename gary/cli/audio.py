"""`gary crop` and `gary join`: files in, a file out, done by the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gary.cli import options as o
from gary.cli.deliver import format_of
from gary.cli.desk import Desk, at_desk

app = typer.Typer()

_File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Audio of any kind.", show_default=False)]
_Files = Annotated[
    list[Path], typer.Argument(exists=True, dir_okay=False, help="Two or more, in order.", show_default=False)
]
_Start = Annotated[
    float | None, typer.Option("--from", parser=o.seconds, metavar="TIME", help="1:23 or 83.5; 0 unless given.")
]
_End = Annotated[
    float | None, typer.Option("--to", parser=o.seconds, metavar="TIME", help="The file's end unless given.")
]
_Into = Annotated[Path, typer.Option("--output", "-o", help="The file.", show_default=False)]


@app.command()
def crop(
    file: _File,
    output: _Into,
    start: _Start = None,
    end: _End = None,
    format_: o.OutputFormat = None,
    url: o.Url = None,
    as_json: o.Json = False,
) -> None:
    """Cuts a stretch out of a file, exact to the sample in wav and flac."""
    kept = format_of(_named(output), format_)
    with at_desk(url, as_json) as desk:
        _write(desk, output, desk.client.crop(file, start or 0.0, end, kept))


@app.command()
def join(
    files: _Files, output: _Into, format_: o.OutputFormat = None, url: o.Url = None, as_json: o.Json = False
) -> None:
    """Puts files one after the other."""
    kept = format_of(_named(output), format_)
    with at_desk(url, as_json) as desk:
        _write(desk, output, desk.client.join(files, kept))


def _named(output: Path) -> Path:
    if output == Path("-"):
        raise typer.BadParameter("a file's name is needed", param_hint="--output")
    return output


def _write(desk: Desk, output: Path, data: bytes) -> None:
    output.write_bytes(data)
    if desk.as_json:
        desk.answer({"path": str(output), "size_bytes": len(data)})
    else:
        desk.say(str(output))
