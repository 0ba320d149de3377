"""`gary doctor`, and scripts/doctor. Light: what looks at the machine is imported once it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command("doctor")
def doctor(
    config: Annotated[
        Path | None,
        typer.Option(
            help="A Serve config file. Without it serve_config.yaml where there is a GPU, else serve_config.dev.yaml."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """Looks at this machine, says what the service lacks here, and what to do. Needs no running service."""
    from gary.doctor.machine import Machine
    from gary.doctor.report import run
    from gary.errors import InvalidInput

    try:
        code = run(Machine(), config, as_program=json)
    except InvalidInput as error:
        typer.echo(f"gary doctor: {error}", err=True)
        code = 2
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
