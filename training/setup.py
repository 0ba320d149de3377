"""What every command of the training begins with: its options, its run's directory, its device, the hub home."""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path

import torch

from gary.engine.device import settle_arithmetic
from gary.engine.hub import use_hub
from training.run import Run


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, default=Path("out/training"), help="what is made lies here, and goes on")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, over all sittings")
    parser.add_argument("--steps", type=int, help="of each part; with --minutes, whichever ends first")
    parser.add_argument("--sitting-minutes", type=float, default=math.inf, help="stops after so long; start it again")
    parser.add_argument("--workers", type=int, default=0, help="processes that make loops; 0: none beside this one")
    parser.add_argument("--threads", type=int, default=2, help="of torch on the CPU")


def begin(options: argparse.Namespace) -> tuple[Run, str]:
    """Settles what is one for a process; the run, and the device's name.

    On a GPU fp32 is fp32 throughout, as in service: codes of another precision are other codes.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    settle_arithmetic()
    use_hub(hub_home(options.run), offline=True)
    return Run(options.run), str(options.device)


def hub_home(run: Path) -> Path:
    """Where a run keeps its text encoder, and later the checkpoint: a directory laid out as `.models` is."""
    return run / "models"
