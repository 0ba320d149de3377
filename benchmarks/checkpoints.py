"""Checkpoints to be measured: musicgen-small's decoder with random weights, beside the tiny codec and text encoder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SMALL = {"dim": 1024, "num_heads": 16, "num_layers": 24}


def small_shape() -> Path:
    """A checkpoint of musicgen-small's shape, 1.7 GB, made once and kept beside the tiny ones.

    Made by a process of its own: it settles where the hub's files lie, for good.
    """
    checkpoint = Path(".models/bench-small")
    if not (checkpoint / "compression_state_dict.bin").is_file():
        subprocess.run([sys.executable, "-m", "benchmarks.checkpoints", str(checkpoint)], check=True)
    return checkpoint


def _write(checkpoint: Path) -> None:
    from gary.engine.hub import use_hub

    use_hub(Path(".models"), offline=True)
    from gary.engine import tiny_weights

    tiny_weights.write_lm(checkpoint, **_SMALL)
    tiny_weights.write_codec(checkpoint, tiny_weights.make_codec())  # last: it says that all is there


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
