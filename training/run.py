"""A training run on disk, and the one loop that trains. One that was stopped and started again ends the same.

That holds bit for bit on a CPU where the budget is in steps: a batch follows from its step, nothing draws from a
generator that lives on, and a state is written whole or not at all. A budget in minutes counts the minutes of all
sittings.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

log = logging.getLogger("training")
Batch = TypeVar("Batch")
LOG_STEPS = 25


class TrainingDiverged(Exception):
    """The loss is no number any more; the last state on disk is from before."""


@dataclass(frozen=True)
class Budget:
    """How long a phase goes on: so many steps, or minutes, whichever end comes first.

    Attributes:
        sitting_minutes: this process stops after so long, finished or not.
        save_s: a state is written so often; what a crash costs.
    """

    steps: int | None = None
    minutes: float | None = None
    sitting_minutes: float = math.inf
    save_s: float = 60.0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("a budget is steps, minutes or both")

    def progress(self, steps: int, elapsed_s: float) -> float:
        """0 at the beginning, 1 at the end."""
        of_steps = steps / self.steps if self.steps else 0.0
        of_minutes = elapsed_s / 60 / self.minutes if self.minutes else 0.0
        return min(1.0, max(of_steps, of_minutes))


@dataclass(frozen=True)
class Phase(Generic[Batch]):
    """What is trained, how, and on what.

    Attributes:
        name: of its files.
        model: all that is saved; only the optimizer's parameters change.
        batch: (step, progress) -> what `loss` takes; the same for the same arguments.
        loss: -> a scalar, and figures for the curves (scalars).
        rate: progress -> learning rate.
        clip: the gradient's norm is kept below it.
    """

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Callable[[int, float], Batch]
    loss: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
    rate: Callable[[float], float]
    clip: float = 1.0


class Run:
    """The directory of a run: for each phase a state, the weights alone, and a curve."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def state_file(self, name: str) -> Path:
        return self.directory / f"{name}.state.pt"

    def weights_file(self, name: str) -> Path:
        """Weights alone and in fp16, as they will be exported: a sixth of a state, to be carried between machines."""
        return self.directory / f"{name}.pt"

    def curve_file(self, name: str) -> Path:
        return self.directory / f"{name}.jsonl"

    def save(self, phase: Phase[Any], step: int, elapsed_s: float, done: bool) -> None:
        place = {"step": step, "elapsed_s": elapsed_s, "done": done, "model": phase.model.state_dict()}
        write_whole(self.state_file(phase.name), {**place, "optimizer": phase.optimizer.state_dict()})
        write_whole(self.weights_file(phase.name), {**place, "model": halved(phase.model.state_dict())})

    def load(self, phase: Phase[Any]) -> dict[str, Any]:
        """Puts a phase back where it was saved; its place. Weights that came without a state begin with new moments.

        Such a run does not end as it would have: it was rounded on the way.
        """
        for file in (self.state_file(phase.name), self.weights_file(phase.name)):
            if file.exists():
                saved: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
                phase.model.load_state_dict(saved["model"])
                if "optimizer" in saved:
                    phase.optimizer.load_state_dict(saved["optimizer"])
                self._cut_curve(phase.name, saved["step"])
                return saved
        self.curve_file(phase.name).unlink(missing_ok=True)
        return {"step": 0, "elapsed_s": 0.0, "done": False}

    def add_point(self, name: str, point: dict[str, float]) -> None:
        with self.curve_file(name).open("a") as curve:
            curve.write(json.dumps(point) + "\n")

    def _cut_curve(self, name: str, step: int) -> None:
        """Drops what was logged after the state was saved: it will come again."""
        file = self.curve_file(name)
        if file.exists():
            lines = [line for line in file.read_text().splitlines() if json.loads(line)["step"] <= step]
            file.write_text("".join(line + "\n" for line in lines))


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU in fp16, where they are no integers; what fp16 cannot hold becomes the largest that it can."""
    most = torch.finfo(torch.float16).max
    return {
        name: weight.detach().clamp(-most, most).half().cpu() if weight.is_floating_point() else weight.detach().cpu()
        for name, weight in state.items()
    }


def write_whole(file: Path, content: Any) -> None:
    """Saves tensors so that a reader finds the old file or the new one, never half of one."""
    beside = file.with_name(file.name + ".part")
    torch.save(content, beside)
    with beside.open("rb") as written:
        os.fsync(written.fileno())
    beside.replace(file)


def train(phase: Phase[Any], run: Run, budget: Budget) -> bool:
    """Goes on with a phase from where it was left; whether it is done. A done one goes on where more is asked of it.

    Raises:
        TrainingDiverged: the loss became infinite or no number.
    """
    saved = run.load(phase)
    step, before_s = int(saved["step"]), float(saved["elapsed_s"])
    done = bool(saved["done"]) and budget.progress(step, before_s) >= 1
    began_s = saved_s = perf_counter()
    points: list[dict[str, Tensor]] = []
    while not done:
        now_s = perf_counter()
        elapsed_s = before_s + now_s - began_s
        progress = budget.progress(step, elapsed_s)
        done = progress >= 1
        if done or now_s - saved_s >= budget.save_s or now_s - began_s > 60 * budget.sitting_minutes:
            _means(phase, points, step)  # what is no number is not saved
            run.save(phase, step, elapsed_s, done)
            saved_s = now_s
            if now_s - began_s > 60 * budget.sitting_minutes:
                break
        if not done:
            points.append(_step(phase, step, progress))
            step += 1
            if step % LOG_STEPS == 0:
                _report(phase, run, points, step, elapsed_s)
                points.clear()
    return done


def _step(phase: Phase[Any], step: int, progress: float) -> dict[str, Tensor]:
    rate = phase.rate(progress)
    for group in phase.optimizer.param_groups:
        group["lr"] = rate
    loss, figures = phase.loss(phase.batch(step, progress))
    phase.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trained = [weight for group in phase.optimizer.param_groups for weight in group["params"]]
    norm = nn.utils.clip_grad_norm_(trained, phase.clip)
    phase.optimizer.step()
    return {"loss": loss.detach(), "gradient": norm.detach(), **figures}


def _report(phase: Phase[Any], run: Run, points: list[dict[str, Tensor]], step: int, elapsed_s: float) -> None:
    """Adds the means since the last report to the curve."""
    means = _means(phase, points, step)
    rate = phase.optimizer.param_groups[0]["lr"]
    run.add_point(phase.name, {"step": step, "elapsed_s": round(elapsed_s, 2), "rate": rate, **means})
    told = " ".join(f"{name} {value:.4g}" for name, value in means.items())
    log.info("%s %d, %.0f s: %s", phase.name, step, elapsed_s, told)


def _means(phase: Phase[Any], points: list[dict[str, Tensor]], step: int) -> dict[str, float]:
    """Means over steps; the one place where the host waits for the device.

    Raises:
        TrainingDiverged: the loss or its gradient is no number.
    """
    names = points[0] if points else ()
    means = {name: float(torch.stack([point[name] for point in points]).mean()) for name in names}
    if not all(math.isfinite(means[name]) for name in ("loss", "gradient") if name in means):
        raise TrainingDiverged(f"{phase.name}: the loss is {means['loss']} at step {step}")
    return means


def cosine(peak: float, warm_up: float = 0.02, floor: float = 0.05) -> Callable[[float], float]:
    """A learning rate that rises over `warm_up` of the way, then falls along a cosine to `floor` of its peak."""

    def rate(progress: float) -> float:
        if progress < warm_up:
            return peak * max(progress, 0.01 * warm_up) / warm_up
        turn = 0.5 + 0.5 * math.cos(math.pi * (progress - warm_up) / (1 - warm_up))
        return peak * (floor + (1 - floor) * turn)

    return rate
