"""Models that parity tests compare: the tiny checkpoint, and the shape of musicgen-small with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gary.engine.checkpoint import load
from gary.engine.hub import use_hub
from gary.engine.tiny import make_checkpoints

MODELS = Path(__file__).parents[2] / ".models"
SMALL: dict[str, Any] = {"dim": 1024, "num_layers": 24, "num_heads": 16}


def tiny_model(device: str = "cpu") -> Any:
    """audiocraft's MusicGen of the tiny checkpoint; on a GPU its language model is in fp16, as audiocraft loads it."""
    use_hub(MODELS, offline=True)  # before anything that imports the hub's libraries
    make_checkpoints(MODELS)
    return load(str(MODELS / "gary-tiny"), device)


def stereo_model() -> Any:
    """The tiny MusicGen as stereo checkpoints are built: 8 interleaved codebooks, two by two of one delay."""
    model = reshaped_model(delays=(0, 0, 1, 1, 2, 2, 3, 3), n_q=8)

    from audiocraft.models.encodec import InterleaveStereoCompressionModel

    model.compression_model = InterleaveStereoCompressionModel(model.compression_model)
    return model


def reshaped_model(
    *,
    seed: int = 0,
    delays: tuple[int, ...] = (),
    device: str = "cpu",
    dtype: str = "float32",
    **transformer: int,
) -> Any:
    """The tiny MusicGen with a language model of another shape in it: random weights, fp16's numbers as in the files
    that are published.
    """
    model = tiny_model(device)  # first, since it settles where the hub is

    from audiocraft.models import builders
    from omegaconf import OmegaConf

    package = torch.load(MODELS / "gary-tiny" / "state_dict.bin", weights_only=True)
    cfg = OmegaConf.create(package["xp.cfg"])
    for name, value in transformer.items():
        cfg.transformer_lm[name] = value
    if delays:
        cfg.codebooks_pattern.delay.delays = list(delays)
    cfg.device, cfg.dtype = device, dtype
    torch.manual_seed(seed)
    model.lm = as_in_fp16(builders.get_lm_model(cfg).eval())
    return model


def as_in_fp16(lm: Any) -> Any:
    """Rounds a language model's weights to what a file in fp16 holds."""
    with torch.no_grad():
        for weight in lm.parameters():
            weight.copy_(weight.half())
    return lm
