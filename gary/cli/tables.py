"""Rows for people on a terminal, and separated by tabs for programs that read a pipe."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def columns(console: Console, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One row for each thing, its facts beside each other."""
    if not console.is_terminal:
        _plain(console, rows)
        return
    table = Table(*names, box=None, header_style="dim", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def facts(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """One thing, its facts below each other."""
    if not console.is_terminal:
        _plain(console, rows)
        return
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, "dim"), Text(value))
    console.print(table)


def _plain(console: Console, rows: Sequence[Sequence[str]]) -> None:
    for row in rows:
        typer.echo("\t".join(row), file=console.file)  # rich would make blanks of tabs
