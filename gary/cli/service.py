"""The service itself: its models, its health, and starting one from a checkout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from gary.cli import options as o
from gary.cli.desk import Exit, at_desk
from gary.cli.tables import columns, facts

app = typer.Typer()

_NO_CHECKOUT = (
    "there is no checkout of gary here: run this inside one, or say where a service runs with --url or GARY_URL. "
    "On a Ray cluster, `serve deploy serve_config.yaml` starts the service."
)


@app.command()
def models(url: o.Url = None, as_json: o.Json = False) -> None:
    """Lists the models that the service has."""
    with at_desk(url, as_json) as desk:
        found = desk.client.models()
        if desk.as_json:
            desk.answer(found)
            return
        rows = [
            (
                model.name + (" (default)" if model.name == found.default else ""),
                model.size or "",
                "loaded" if model.loaded else "not loaded",
                model.licence or "",
                model.description or "",
            )
            for model in found.models
        ]
        columns(desk.stdout, ("model", "size", "state", "licence", "description"), rows)


@app.command()
def health(url: o.Url = None, as_json: o.Json = False) -> None:
    """Says how the service is; exit code 3 unless it is live."""
    with at_desk(url, as_json) as desk:
        found = desk.client.health()
        if desk.as_json:
            desk.answer(found)
        else:
            parts = {"status": found.status, **(found.model_extra or {})}
            facts(desk.stdout, [(name, value) for name, value in parts.items() if isinstance(value, str)])
        if not found.is_live:
            raise typer.Exit(Exit.UNREACHABLE)


@app.command()
def serve(
    config: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="A Serve config; serve_config.dev.yaml unless given."),
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="As the config's http_options say.")] = None,
) -> None:
    """Runs the service of this checkout until Ctrl-C, as scripts/serve does."""
    arguments = [str(config.resolve())] if config is not None else []
    _exec("serve", [*arguments, *(["--port", str(port)] if port is not None else [])])


@app.command()
def demo() -> None:
    """Runs the whole way once on this machine, as scripts/demo does."""
    _exec("demo", [])


def _exec(name: str, arguments: list[str]) -> NoReturn:
    """Becomes one of the checkout's scripts, so that signals and the exit code are its own."""
    script = _checkout() / "scripts" / name
    os.execv(script, [str(script), *arguments])  # noqa: S606  no shell is what is wanted


def _checkout() -> Path:
    """The checkout around the working directory, or the one that this program runs from."""
    here, own = Path.cwd(), Path(__file__).resolve().parents[2]
    for directory in (here, *here.parents, own):
        if (directory / "scripts" / "serve").is_file() and (directory / "serve_config.dev.yaml").is_file():
            return directory
    typer.echo(_NO_CHECKOUT, err=True)
    raise typer.Exit(Exit.USAGE)
