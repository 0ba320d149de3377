"""Tasks that are there already: list, show, save, cancel, forget."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import typer

from gary.cli import options as o
from gary.cli.deliver import Wanted, finish, format_of
from gary.cli.deliver import stream as stream_out
from gary.cli.desk import Desk, at_desk
from gary.cli.follow import fraction, until_over, words
from gary.cli.remembered import Begun, Memory
from gary.cli.tables import columns, facts
from gary.cli.times import clock
from gary.client import Refused, State, Task

app = typer.Typer()


@app.command("tasks")
def list_tasks(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="At most so many, the newest.")] = 20,
    url: o.Url = None,
    as_json: o.Json = False,
) -> None:
    """Lists the tasks that you began from this machine."""
    with at_desk(url, as_json) as desk:
        memory = Memory()
        known, gone = [], []
        for begun in memory.of(desk.client.base_url)[:count]:
            task = _task_or_none(desk, begun.id)
            if task is None:
                gone.append(begun.id)
            else:
                known.append((begun, task))
        memory.drop(gone)
        if desk.as_json:
            desk.answer({"tasks": [_listed(begun, task) for begun, task in known]})
        elif known:
            columns(desk.stdout, ("id", "state", "length", "begun", "from"), [_row(*pair) for pair in known])
        else:
            desk.note("no tasks; begin one with `gary continue song.mp3` or `gary generate URL`")


@app.command()
def show(task_id: o.TaskId, url: o.Url = None, as_json: o.Json = False) -> None:
    """Shows where a task stands and how it was made."""
    with at_desk(url, as_json) as desk:
        task = desk.client.get(task_id)
        if desk.as_json:
            desk.answer(task)
        else:
            facts(desk.stdout, _facts(task))


@app.command()
def save(
    task_id: o.TaskId,
    output: o.Output = None,
    format_: o.OutputFormat = None,
    take: Annotated[int | None, typer.Option("--take", min=0, help="One take; all of them unless given.")] = None,
    url: o.Url = None,
    as_json: o.Json = False,
) -> None:
    """Waits for a task and keeps its music; Ctrl-C leaves the task at work."""
    kept = format_of(output, format_)
    wanted = Wanted(output, kept, "task")
    if wanted.is_stream and as_json:
        raise typer.BadParameter("- does not go with --json", param_hint="--output")
    with at_desk(url, as_json) as desk:
        if wanted.is_stream:
            stream_out(desk, task_id, take or 0)
        else:
            finish(desk, until_over(desk, task_id), wanted, take)


@app.command()
def cancel(task_id: o.TaskId, url: o.Url = None, as_json: o.Json = False) -> None:
    """Cancels a task; one that is over stays as it is."""
    with at_desk(url, as_json) as desk:
        task = desk.client.cancel(task_id)
        if desk.as_json:
            desk.answer(task)
        else:
            desk.say(f"task {task.id} is {task.state.value}")


@app.command()
def forget(task_id: o.TaskId, url: o.Url = None, as_json: o.Json = False) -> None:
    """Deletes a finished task with its music."""
    with at_desk(url, as_json) as desk:
        desk.client.forget(task_id)
        Memory().drop([task_id])
        if desk.as_json:
            desk.answer({"forgotten": task_id})
        else:
            desk.say(f"task {task_id} is forgotten")


def _task_or_none(desk: Desk, task_id: str) -> Task | None:
    try:
        return desk.client.get(task_id)
    except Refused as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise


def _listed(begun: Begun, task: Task) -> dict[str, Any]:
    return task.model_dump(mode="json") | {"from": begun.what}


def _row(begun: Begun, task: Task) -> tuple[str, ...]:
    state = f"{task.state.value} {fraction(task):.0%}" if task.state is State.GENERATING else task.state.value
    length = clock(task.music.duration_s) if task.music is not None else ""
    return task.id, state, length, f"{begun.begun_at.astimezone():%d %b %H:%M}", begun.what


def _facts(task: Task) -> list[tuple[str, str]]:
    """What a person wants to know, in words."""
    music, timings = task.music, task.timings
    stages = {name: value for name, value in timings if isinstance(value, float)}
    rows = [
        ("task", task.id),
        ("state", " ".join(filter(None, (task.state.value, words(task))))),
        ("model", task.model or ""),
        ("seed", str(task.seed) if task.seed is not None else ""),
        ("length", f"{music.duration_s:.2f} s, new from {music.source_s:.2f} s on" if music is not None else ""),
        ("tempo", f"{music.tempo_bpm:.1f} bpm" if music is not None and music.tempo_bpm is not None else ""),
        ("bars", str(music.bars) if music is not None and music.bars is not None else ""),
        ("takes", "  ".join(f"{take.take}: seed {take.seed}" for take in task.takes)),
        ("times", "  ".join(f"{name.removesuffix('_s')} {value:.2f} s" for name, value in stages.items())),
        ("goes on from", task.parent or ""),
        ("gone on by", " ".join(task.children)),
    ]
    return [(name, value) for name, value in rows if value]
