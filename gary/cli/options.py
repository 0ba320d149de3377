"""Options that several commands take, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gary.cli.times import SecondRange, second_range, seconds
from gary.client import Format, Side

_MUSIC = "How much new music"
_DRAWN = "How it is drawn"
_OUT = "What comes out"

Url = Annotated[
    str | None, typer.Option("--url", envvar="GARY_URL", help="The service; by default http://127.0.0.1:8000.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
TaskId = Annotated[str, typer.Argument(metavar="ID", help="Of a task.", show_default=False)]

At = Annotated[
    float | None,
    typer.Option("--at", parser=seconds, metavar="TIME", help="Where the prompt begins: 1:02:03, 1:23 or 83.5."),
]
From = Annotated[
    float | None, typer.Option("--from", parser=seconds, metavar="TIME", help="Of a task: where its stretch begins.")
]
To = Annotated[
    float | None, typer.Option("--to", parser=seconds, metavar="TIME", help="Of a task: where its stretch ends.")
]
Take = Annotated[int, typer.Option("--take", min=0, help="Which take, from 0 on.")]
PromptLength = Annotated[
    float | None, typer.Option("--prompt", metavar="SECONDS", help="How much of the music the model hears.")
]
PromptSide = Annotated[
    Side | None, typer.Option("--side", help="Where the model listens: from --at on, the beginning, or the end.")
]
Model = Annotated[str | None, typer.Option("--model", "-m", help="One of `gary models`.")]
Description = Annotated[str | None, typer.Option("--description", "-d", help="What the music should be.")]

Bars = Annotated[int | None, typer.Option("--bars", "-b", min=1, help="Whole bars.", rich_help_panel=_MUSIC)]
Seconds = Annotated[float | None, typer.Option("--seconds", "-s", help="Seconds.", rich_help_panel=_MUSIC)]
Between = Annotated[
    SecondRange | None,
    typer.Option(
        "--between",
        parser=second_range,
        metavar="MIN-MAX",
        help="As many whole bars as fit, in seconds: 16-18.",
        rich_help_panel=_MUSIC,
    ),
]
Tempo = Annotated[
    float | None,
    typer.Option("--tempo", metavar="BPM", help="Of the bars; heard unless given.", rich_help_panel=_MUSIC),
]

Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Same seed, same music.", rich_help_panel=_DRAWN)]
Takes = Annotated[int | None, typer.Option("--takes", min=1, help="Answers at once.", rich_help_panel=_DRAWN)]
TopK = Annotated[int | None, typer.Option("--top-k", rich_help_panel=_DRAWN)]
TopP = Annotated[float | None, typer.Option("--top-p", rich_help_panel=_DRAWN)]
Temperature = Annotated[float | None, typer.Option("--temperature", rich_help_panel=_DRAWN)]
Cfg = Annotated[
    float | None,
    typer.Option("--cfg", help="How closely it keeps to the description.", rich_help_panel=_DRAWN),
]

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The file; - streams a WAV to stdout while it is made.",
        show_default=False,
        rich_help_panel=_OUT,
    ),
]
OutputFormat = Annotated[
    Format | None, typer.Option("--format", "-f", help="By default from the file's name.", rich_help_panel=_OUT)
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Begin it, print its id and go; see `gary save`.", rich_help_panel=_OUT)
]
Whole = Annotated[
    bool,
    typer.Option("--whole", help="Of a file: put what comes before the prompt in front.", rich_help_panel=_OUT),
]
