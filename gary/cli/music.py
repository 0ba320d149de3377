"""`gary continue` and `gary generate`: begin a task, wait for it, keep its music."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gary.cli import options as o
from gary.cli.deliver import STREAM, Wanted, format_of, run
from gary.cli.desk import Desk, at_desk
from gary.cli.times import SecondRange
from gary.cli.wav import wav_duration_s
from gary.client import Length, LinkSource, Order, Prompt, Sampling, Side, Task, UploadSource

app = typer.Typer()

_TASK_ID = re.compile(r"[0-9a-f]{24}")


@app.command("continue")
def continue_(  # noqa: PLR0913, PLR0917  the signature is the list of options
    source: Annotated[str, typer.Argument(help="An audio file, or the id of a finished task.", show_default=False)],
    bars: o.Bars = None,
    seconds: o.Seconds = None,
    between: o.Between = None,
    tempo: o.Tempo = None,
    at: o.At = None,
    from_: o.From = None,
    to: o.To = None,
    take: o.Take = 0,
    prompt: o.PromptLength = None,
    side: o.PromptSide = None,
    model: o.Model = None,
    description: o.Description = None,
    seed: o.Seed = None,
    takes: o.Takes = None,
    top_k: o.TopK = None,
    top_p: o.TopP = None,
    temperature: o.Temperature = None,
    cfg: o.Cfg = None,
    output: o.Output = None,
    format_: o.OutputFormat = None,
    whole: o.Whole = False,
    detach: o.Detach = False,
    url: o.Url = None,
    as_json: o.Json = False,
) -> None:
    """Lets music go on: gary continue song.mp3 --bars 8 --seed 7 -o out.wav

    The answer begins with what the model heard; of a task, with all that was there before.
    """
    file = Path(source) if Path(source).is_file() else None
    _check_source(source, file, of_file=at is not None or whole, of_task=from_ is not None or to is not None or take)
    side = "cursor" if at is not None and side is None else side
    kept = format_of(output, format_)
    order = Order(
        model=model,
        description=description,
        prompt=_prompt(prompt, side),
        length=_length(bars, seconds, between, tempo),
        sampling=_sampling(top_k, top_p, temperature, cfg),
        seed=seed,
        takes=takes,
        format=kept,
    )
    _check_stream(output, as_json or whole or detach)
    with at_desk(url, as_json) as desk:
        if file is None:
            begun = desk.client.continue_(source, order, take=take, start_s=from_, end_s=to)
            run(desk, begun, Wanted(output, kept, "continued"), source, detach)
            return
        begun = desk.client.create(UploadSource(start_s=at), order, file=file)
        wanted = Wanted(output, kept, f"{file.stem}-continued")
        if whole:
            wanted = Wanted(output, kept, f"{file.stem}-whole", _front(desk, file, side or "tail", at or 0.0))
        run(desk, begun, wanted, file.name, detach)


@app.command()
def generate(  # noqa: PLR0913, PLR0917  the signature is the list of options
    link: Annotated[str, typer.Argument(metavar="URL", help="Of a YouTube video or SoundCloud track.")],
    at: o.At = None,
    bars: o.Bars = None,
    seconds: o.Seconds = None,
    between: o.Between = None,
    tempo: o.Tempo = None,
    prompt: o.PromptLength = None,
    side: o.PromptSide = None,
    model: o.Model = None,
    description: o.Description = None,
    seed: o.Seed = None,
    takes: o.Takes = None,
    top_k: o.TopK = None,
    top_p: o.TopP = None,
    temperature: o.Temperature = None,
    cfg: o.Cfg = None,
    output: o.Output = None,
    format_: o.OutputFormat = None,
    detach: o.Detach = False,
    url: o.Url = None,
    as_json: o.Json = False,
) -> None:
    """Goes on from what plays at a link: gary generate URL --at 1:23"""
    kept = format_of(output, format_)
    order = Order(
        model=model,
        description=description,
        prompt=_prompt(prompt, side),
        length=_length(bars, seconds, between, tempo),
        sampling=_sampling(top_k, top_p, temperature, cfg),
        seed=seed,
        takes=takes,
        format=kept,
    )
    _check_stream(output, as_json or detach)
    with at_desk(url, as_json) as desk:
        begun = desk.client.create(LinkSource(url=link, start_s=at), order)
        run(desk, begun, Wanted(output, kept, "generated"), link, detach)


def _check_source(source: str, file: Path | None, of_file: bool, of_task: bool | int) -> None:
    """Raises typer.BadParameter where the source is none, or an option is for the other kind of source."""
    if file is not None:
        if of_task:
            raise typer.BadParameter("--from, --to and --take are for tasks", param_hint="SOURCE")
    elif not _TASK_ID.fullmatch(source):
        hint = "; `gary generate` takes links" if "://" in source else ""
        raise typer.BadParameter(f"{source!r} is neither a file nor a task's id{hint}", param_hint="SOURCE")
    elif of_file:
        raise typer.BadParameter(
            "--at and --whole are for files; a task's answer holds what came before", param_hint="SOURCE"
        )


def _check_stream(output: Path | None, other: bool) -> None:
    if output == STREAM and other:
        raise typer.BadParameter("- does not go with --json, --whole or --detach", param_hint="--output")


def _length(
    bars: int | None, seconds: float | None, between: SecondRange | None, tempo_bpm: float | None
) -> Length | None:
    if sum(given is not None for given in (bars, seconds, between)) > 1:
        raise typer.BadParameter("one of --bars, --seconds and --between is enough", param_hint="--bars")
    if tempo_bpm is not None and bars is None:
        raise typer.BadParameter("it goes with --bars", param_hint="--tempo")
    if between is not None:
        return Length(min_s=between.min_s, max_s=between.max_s)
    return Length(bars=bars, seconds=seconds, tempo_bpm=tempo_bpm) if bars or seconds is not None else None


def _prompt(length_s: float | None, side: Side | None) -> Prompt | None:
    return Prompt(length_s=length_s, side=side) if length_s is not None or side is not None else None


def _sampling(
    top_k: int | None, top_p: float | None, temperature: float | None, cfg_coef: float | None
) -> Sampling | None:
    sampling = Sampling(top_k=top_k, top_p=top_p, temperature=temperature, cfg_coef=cfg_coef)
    return sampling if sampling.model_dump(exclude_none=True) else None


def _front(desk: Desk, file: Path, side: Side, at_s: float) -> Callable[[Task], bytes | None]:
    """What of the file comes before the prompt, once the task says how long the prompt was."""

    def front(task: Task) -> bytes | None:
        if side == "head":
            return None
        if side == "cursor":
            return desk.client.crop(file, 0.0, at_s) if at_s > 0 else None
        whole = desk.client.crop(file)
        prompt_s = task.music.prompt_s if task.music is not None else 0.0
        end_s = wav_duration_s(whole) - prompt_s
        return desk.client.crop(whole, 0.0, end_s) if end_s > 0 else None

    return front
