"""Puts an exported model back into a run, so that its training goes on: `python -m training.resume --run DIR`.

An exported model is weights in fp16 and nothing else: the optimizer begins anew, and so do the codes of the loops. How
long it was trained is told here, since a budget counts the minutes of all sittings: then `codec --minutes 30` is ten
minutes more for a codec that had twenty.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.codec import DECODER
from training.export import NAME, SHARPNESS
from training.lm import LM
from training.run import Run, log, write_whole
from training.setup import hub_home

CODEC_MINUTES, LM_MINUTES = 56.0, 136.0  # of the model that lies in the repository


def resume(models: Path, run: Run, codec_minutes: float, lm_minutes: float) -> None:
    """Writes the weights of both halves, and the text encoder, where a run keeps them.

    Raises:
        FileExistsError: the run has weights of its own.
    """
    parts = {
        DECODER: (_state(models / NAME / "compression_state_dict.bin"), codec_minutes),
        LM: (_unsharpened(_state(models / NAME / "state_dict.bin")), lm_minutes),
    }
    if there := [run.weights_file(part) for part in parts if run.weights_file(part).exists()]:
        raise FileExistsError(f"{there[0]} is there already; name another --run, or delete it")
    for part, (state, minutes) in parts.items():
        write_whole(run.weights_file(part), {"step": 0, "elapsed_s": 60 * minutes, "done": True, "model": state})
    shutil.copytree(models / "hub", hub_home(run.directory) / "hub", dirs_exist_ok=True)


def _state(file: Path) -> dict[str, Tensor]:
    package: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = package["best_state"]
    return state


def _unsharpened(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight / SHARPNESS if name.startswith("linears.") else weight for name, weight in state.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("out/training"))
    parser.add_argument("--models", type=Path, default=Path("models"), help="what was exported")
    parser.add_argument("--codec-minutes", type=float, default=CODEC_MINUTES, help="that the codec had")
    parser.add_argument("--lm-minutes", type=float, default=LM_MINUTES, help="that the language model had")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    resume(options.models, Run(options.run), options.codec_minutes, options.lm_minutes)
    log.info("%s goes on from %s", options.run, options.models)


if __name__ == "__main__":
    main()
