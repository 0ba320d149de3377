"""The program `gary`: its commands, and what they have in common."""

from __future__ import annotations

import typer

from gary.cli import audio, music, service, tasks
from gary.doctor import command as doctor

EXIT_CODES = """Exit codes:

0   done

1   the task failed or was cancelled, or its music could not be written

2   wrong use

3   no service answers, or it is out of order

4   the service refused

130 Ctrl-C, which also cancels the task that was begun
"""

app = typer.Typer(
    name="gary",
    help="Continues music with MusicGen, by a service that runs here or elsewhere.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,  # they may hold the API key
)
for room in (music.app, tasks.app, audio.app, service.app, doctor.app):
    app.registered_commands.extend(room.registered_commands)
