"""From a task that is over to files, with what a person or a program wants to know about them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from gary.cli.desk import Desk, Exit
from gary.cli.follow import cancelling, until_music, until_over
from gary.cli.remembered import Memory
from gary.cli.wav import read_wav
from gary.cli.waveform import waveform
from gary.client import Format, State, StreamBroken, Take, Task

STREAM = Path("-")
_FORMATS: dict[str, Format] = {".wav": "wav", ".flac": "flac", ".mp3": "mp3", ".opus": "opus", ".ogg": "opus"}
_COLUMNS_MAX = 72
_STDOUT = 1


@dataclass(frozen=True)
class Wanted:
    """Where the audio goes, and as what.

    Attributes:
        path: None is a name made from `stem` and the task's id; STREAM is stdout.
        front: what goes before an answer, a WAV; None where nothing does.
    """

    path: Path | None
    format: Format
    stem: str
    front: Callable[[Task], bytes | None] = lambda task: None

    @property
    def is_stream(self) -> bool:
        return self.path == STREAM

    def file(self, task: Task, take: Take, of: int) -> Path:
        """A take's file; with several takes each has its number in the name."""
        path = self.path or Path(f"{self.stem}-{task.id[-6:]}.{self.format}")
        return path.with_name(f"{path.stem}-take{take.take}{path.suffix}") if of > 1 else path


def format_of(path: Path | None, named: Format | None) -> Format:
    """The format that was named, or that the file's name says; raises typer.BadParameter."""
    if path == STREAM:
        if named not in (None, "wav"):
            raise typer.BadParameter("a stream is a WAV", param_hint="--format")
        return "wav"
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no directory {path.parent}", param_hint="--output")
    if named is not None or path is None:
        return named or "wav"
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError as error:
        known = " ".join(_FORMATS)
        raise typer.BadParameter(
            f"{path.name!r} ends in none of {known}; say --format", param_hint="--output"
        ) from error


def run(desk: Desk, task: Task, wanted: Wanted, what: str, detach: bool) -> None:
    """From a task that was just begun to its files; Ctrl-C cancels it."""
    with cancelling(desk, task.id):
        _remember(desk, task.id, what)
        if detach:
            if desk.as_json:
                desk.answer({"task": task.model_dump(mode="json"), "files": []})
            else:
                desk.say(task.id)
            return
        desk.note(f"task {task.id}: {task.model}, seed {task.seed}")
        if wanted.is_stream:
            stream(desk, task.id)
        else:
            finish(desk, until_over(desk, task.id), wanted)


def finish(desk: Desk, task: Task, wanted: Wanted, take: int | None = None) -> None:
    """Writes the files of a task that is over: of all its takes, or of one; ends with exit code 1 where it failed."""
    _check_completed(desk, task)
    takes = [each for each in task.takes if take is None or each.take == take]
    if not takes:
        raise typer.BadParameter(f"task {task.id} has takes 0 to {len(task.takes) - 1}", param_hint="--take")
    front = wanted.front(task)
    paths = [wanted.file(task, each, len(takes)) for each in takes]
    for each, path in zip(takes, paths, strict=True):
        if front is None:
            desk.client.save_audio(task.id, path, wanted.format, each.take)
        else:
            answer = desk.client.audio(task.id, "wav", each.take)
            path.write_bytes(desk.client.join([front, answer], wanted.format))
    _tell(desk, task, takes, paths)


def stream(desk: Desk, task_id: str, take: int = 0) -> None:
    """Writes a take to stdout while it is made."""
    _check_completed(desk, until_music(desk, task_id), or_unfinished=True)
    try:
        with desk.client.live(task_id, take) as live:
            for chunk in live.chunks:
                _write_out(chunk)
    except StreamBroken:
        task = desk.client.get(task_id)
        _check_completed(desk, task, or_unfinished=True)  # why it broke, where the task says so
        raise


def _write_out(data: bytes) -> None:
    """Past Python's buffer, whose rest would be flushed once more at the end when nobody listens any longer."""
    left = memoryview(data)
    while left:
        left = left[os.write(_STDOUT, left) :]


def _check_completed(desk: Desk, task: Task, or_unfinished: bool = False) -> None:
    if task.state is State.COMPLETED or (or_unfinished and not task.is_final):
        return
    if desk.as_json:
        desk.answer({"task": task.model_dump(mode="json"), "files": []})
    why = task.error.message if task.error is not None else f"task {task.id} is {task.state.value}"
    desk.note(Text.assemble(("error: ", "bold red"), why))
    raise typer.Exit(Exit.FAILED)


def _remember(desk: Desk, task_id: str, what: str) -> None:
    try:
        Memory().add(task_id, desk.client.base_url, what)
    except OSError as error:
        desk.note(f"`gary tasks` will not know this task: {error}")


def _tell(desk: Desk, task: Task, takes: Sequence[Take], paths: Sequence[Path]) -> None:
    if desk.as_json:
        files: list[dict[str, Any]] = [
            {"take": take.take, "path": str(path), "duration_s": take.duration_s}
            for take, path in zip(takes, paths, strict=True)
        ]
        desk.answer({"task": task.model_dump(mode="json"), "files": files})
        return
    desk.note(_facts(task, takes[0]))
    for take, path in zip(takes, paths, strict=True):
        desk.say(str(path))
        if desk.stdout.is_terminal:
            sound = read_wav(desk.client.audio(task.id, "wav", take.take))
            columns = min(_COLUMNS_MAX, desk.stdout.width)
            desk.say(waveform(sound, task.music.source_s if task.music is not None else 0.0, columns))


def _facts(task: Task, take: Take) -> str:
    music = task.music
    facts = [f"{take.duration_s:.1f} s"] if take.duration_s is not None else [f"take {take.take}"]
    if music is not None:
        facts.append(f"new from {music.source_s:.1f} s on")
        bars = f"{music.bars} bar{'s' * (music.bars != 1)}" if music.bars is not None else ""
        if music.tempo_bpm is not None:
            facts.append(f"{bars or 'played'} at {music.tempo_bpm:.1f} bpm")
        elif bars:
            facts.append(f"{bars} at 120 bpm, since no beat was heard" if music.tempo_assumed else bars)
    return ", ".join(facts)
