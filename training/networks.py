"""The demo model's networks: audiocraft's own classes, by its own builders, from the configuration that is exported.

Sizes that clients and engine rely on are MusicGen's (`gary.engine.tiny_weights`); what is smaller here is chosen so
that the checkpoint stays under 30 MB in fp16 and two CPU cores outrun the music. Importing this settles the hub home.
"""

from __future__ import annotations

from typing import Any

from audiocraft.models import builders
from omegaconf import OmegaConf

from gary.engine.tiny_weights import CODEC_CONFIG, LM_CONFIG, seeded
from training.looking_back import prepare

LATENT_WIDTH = 128
TEXT_ENCODER = "t5-small"  # the name under which a hub home holds ours; no MusicGen uses the real one


def codec_config(**seanet: Any) -> dict[str, Any]:
    """An EnCodec of 1.3 million weights, without LSTM; its encoder as narrow as the transform in it allows.

    Args:
        seanet: of the autoencoder, where it is another: n_filters, dimension, ...
    """
    own = {"dimension": LATENT_WIDTH, "n_filters": 16, "lstm": 0, "encoder": {"n_filters": 10}}
    shape = {**CODEC_CONFIG["seanet"], **own, **seanet}
    return {**CODEC_CONFIG, "seanet": shape}


def lm_config(text_encoder: str = TEXT_ENCODER, **transformer: Any) -> dict[str, Any]:
    """A decoder of 256 × 8 heads × 4 layers, 8.5 million weights.

    Args:
        text_encoder: a name that audiocraft knows, and the hub home holds.
        transformer: of `transformer_lm`, where it is another: dim, num_heads, num_layers.
    """
    shape = {**LM_CONFIG["transformer_lm"], "dim": 256, "num_heads": 8, "num_layers": 4, **transformer}
    # The text encoder stays as it is, and whole words: which rows go without a description is the trainer's business.
    text = {"name": text_encoder, "finetune": False, "word_dropout": 0.0, "normalize_text": False}
    conditioners = {"description": {"model": "t5", "t5": text}}
    return {**LM_CONFIG, "transformer_lm": shape, "conditioners": conditioners}


def make_codec(config: dict[str, Any]) -> Any:
    """An untrained `EncodecModel`, its weights from one seed."""
    codec: Any = seeded(lambda: builders.get_compression_model(OmegaConf.create(config)), 11)
    for book in codec.quantizer.vq.layers:
        book._codebook.inited.fill_(1)  # noqa: SLF001 - else the first pass would run audiocraft's own k-means
    return codec


def make_lm(config: dict[str, Any], device: str = "cpu") -> Any:
    """An untrained `LMModel` in fp32 that knows how to look back, its weights from one seed; reads the hub home."""
    built = OmegaConf.create({**config, "device": device})
    lm: Any = seeded(lambda: builders.get_lm_model(built), 12)
    prepare(lm.cpu(), seed=13)  # where its random numbers are drawn
    return lm.to(device)
