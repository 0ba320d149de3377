"""Waits with the person who waits: stage, place in the queue, progress and time left, on stderr.

On a terminal a bar that goes when it is done; elsewhere a line for each change of stage and each tenth of the way.
Where the program began the task, Ctrl-C cancels it on the service before the program ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars

from gary.cli.desk import Desk, Exit
from gary.cli.times import about
from gary.client import State, Task

_TENTH = 0.1


def words(task: Task) -> str:
    """Where a task stands, in a few words."""
    if task.state is State.QUEUED and task.queue is not None:
        wait = f", about {about(task.queue.eta_s)}" if task.queue.eta_s is not None else ""
        return f"number {task.queue.position} in the queue{wait}"
    if task.state is State.GENERATING and task.progress is not None and task.progress.eta_s is not None:
        return f"{about(task.progress.eta_s)} left"
    if task.error is not None:
        return task.error.message
    return ""


class Display(Protocol):
    def show(self, task: Task) -> None: ...


class BarDisplay:
    """A bar that redraws itself."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._bar = bars.add_task("", total=1.0, words="")

    def show(self, task: Task) -> None:
        self._bars.update(self._bar, description=task.state.value, completed=fraction(task), words=words(task))


class LineDisplay:
    """A line for each change that is worth one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[object, ...] = ()

    def show(self, task: Task) -> None:
        place = task.queue.position if task.queue is not None else 0
        tenths = int(fraction(task) / _TENTH) if task.state is State.GENERATING else 0
        news = (task.state, place, tenths)
        if news == self._last:
            return
        self._last = news
        percent = f" {fraction(task):.0%}" if task.state is State.GENERATING else ""
        text = words(task)
        line = f"{task.state.value}{percent}" + (f": {text}" if text else "")
        self._console.print(line, soft_wrap=True)


def fraction(task: Task) -> float:
    if task.state in (State.ENCODING, State.COMPLETED):
        return 1.0
    return task.progress.fraction if task.progress is not None else 0.0


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """The display that suits where stderr goes."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield LineDisplay(console)
        return
    columns = (TextColumn("{task.description:<10}"), BarColumn(), TaskProgressColumn())
    with Bars(*columns, TextColumn("{task.fields[words]}", markup=False), console=console, transient=True) as bars:
        yield BarDisplay(bars)


@contextmanager
def cancelling(desk: Desk, task_id: str) -> Iterator[None]:
    """Ctrl-C in the block cancels the task and ends the program; a second one ends it at once."""
    try:
        yield
    except KeyboardInterrupt as error:
        task = desk.client.cancel(task_id)
        desk.note(f"task {task.id} is {task.state.value}")
        if desk.as_json:
            desk.answer({"task": task.model_dump(mode="json"), "files": []})
        raise typer.Exit(Exit.INTERRUPTED) from error


def until_over(desk: Desk, task_id: str) -> Task:
    """Shows a task until it is over; the task as it stands then."""
    with display(desk.stderr) as shown:
        return desk.client.wait(task_id, shown.show)


def until_music(desk: Desk, task_id: str) -> Task:
    """Shows a task until it is known what is being made, or it is over."""
    with display(desk.stderr) as shown:
        for event in desk.client.events(task_id):
            shown.show(event.task)
            if event.task.music is not None:
                break
        return desk.client.get(task_id)
