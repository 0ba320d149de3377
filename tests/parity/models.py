"""Models that parity tests compare: the tiny checkpoint, and the shape of musicgen-small with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gary.engine.checkpoint import load
from gary.engine.hub import use_hub
from gary.engine.tiny import make_checkpoints

MODELS = Path(__file__).parents[2] / ".models"
SMALL = {"dim": 1024, "num_layers": 24, "num_heads": 16}


def tiny_model() -> Any:
    """audiocraft's MusicGen of the tiny checkpoint."""
    make_checkpoints(MODELS)
    use_hub(MODELS, offline=True)
    return load(str(MODELS / "gary-tiny"), "cpu")


def reshaped_model(seed: int = 0, **transformer: int) -> Any:
    """The tiny MusicGen with a language model of another shape in it, its weights random."""
    model = tiny_model()  # first, since it settles where the hub is

    from audiocraft.models import builders
    from omegaconf import OmegaConf

    package = torch.load(MODELS / "gary-tiny" / "state_dict.bin", weights_only=True)
    cfg = OmegaConf.create(package["xp.cfg"])
    for name, value in transformer.items():
        cfg.transformer_lm[name] = value
    torch.manual_seed(seed)
    model.lm = builders.get_lm_model(cfg).eval()
    return model
