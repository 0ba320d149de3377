"""Writes `gary-demo` as audiocraft exports a checkpoint: `python -m training.export --run DIR`.

    DIR/models/gary-demo/                state_dict.bin, compression_state_dict.bin: fp16 weights, configuration as YAML
    DIR/models/hub/models--t5-small/     its text encoder, as the hub's client wants to find it

Together at most 30 MB. DIR/models is a directory of checkpoints and a hub home at once, as `.models` is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.run import Run, halved, log
from training.setup import add_common, begin, hub_home

NAME = "gary-demo"
LIMIT_BYTES = 30_000_000
SHARPNESS = 2.0  # of what is exported: at temperature 1 it draws as the trained model does at 1 / SHARPNESS


class TooLarge(Exception):
    """The checkpoint is larger than what a repository should hold."""


def export(codec: Any, codec_config: dict[str, Any], lm: Any, lm_config: dict[str, Any], directory: Path) -> int:
    """Writes both halves; the bytes they take.

    Args:
        directory: of the checkpoint, made where it is missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / "state_dict.bin", halved(sharpened(lm.state_dict())), lm_config)
    _write(directory / "compression_state_dict.bin", codec_state(codec), codec_config)
    return bytes_of(directory)


def sharpened(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A language model's weights with surer output layers: a small model is less sure of its way than it might be, and
    one code in a hundred that is none of the music is heard.
    """
    return {name: weight * SHARPNESS if name.startswith("linears.") else weight for name, weight in state.items()}


def codec_state(codec: Any) -> dict[str, Tensor]:
    """A codec in fp16. A codebook's running mean is written as the codebook itself, once: only training reads it."""
    state = halved(codec.state_dict())
    means = {name: state[name.removesuffix("_avg")] for name in state if name.endswith("embed_avg")}
    return {**state, **means}


def bytes_of(*directories: Path) -> int:
    files = (file for directory in directories for file in directory.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files)


def _write(file: Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    import audiocraft
    from omegaconf import OmegaConf

    package = {
        "best_state": state,
        "xp.cfg": OmegaConf.to_yaml(OmegaConf.create(config)),
        "version": audiocraft.__version__,
        "exported": True,
    }
    torch.save(package, file)


def export_run(run: Run, untrained: bool) -> int:
    """Exports what a run has trained, or the same networks untrained; the bytes of all that was written.

    Raises:
        FileNotFoundError: something is not trained yet.
        TooLarge: more than 30 MB.
    """
    from training.codec import DECODER, load_codec
    from training.lm import LM
    from training.networks import TEXT_ENCODER, codec_config, lm_config, make_codec, make_lm
    from training.text import write_text_encoder

    missing = [run.weights_file(part) for part in (DECODER, LM) if not run.weights_file(part).exists()]
    if missing and not untrained:
        raise FileNotFoundError(f"not trained yet: {', '.join(str(file) for file in missing)}")
    home = hub_home(run.directory)
    text_encoder = write_text_encoder(home, TEXT_ENCODER)
    codec, lm = make_codec(codec_config()), make_lm(lm_config())
    if not untrained:
        load_codec(codec, run)
        lm.load_state_dict(torch.load(run.weights_file(LM), map_location="cpu", weights_only=True)["model"])
    written = export(codec, codec_config(), lm, lm_config(), home / NAME) + bytes_of(text_encoder)
    if written > LIMIT_BYTES:
        raise TooLarge(f"{NAME} and its text encoder take {written} bytes; {LIMIT_BYTES} are allowed")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--untrained", action="store_true", help="random weights of the same shapes: speed, not music")
    options = parser.parse_args()
    run, _ = begin(options)
    written = export_run(run, options.untrained)
    log.info("%s: %.1f MB", hub_home(options.run) / NAME, written / 1e6)


if __name__ == "__main__":
    main()
