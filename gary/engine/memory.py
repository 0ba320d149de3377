"""What a model takes of its device's memory, by arithmetic on what it holds; it allocates and measures nothing.

An allocator's own figures would count whatever the other engines of the process do meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from gary.engine.model import Decoder
from gary.engine.weights import DecoderWeights

if TYPE_CHECKING:
    from audiocraft.models.lm import LMModel
    from audiocraft.models.musicgen import MusicGen


def module_bytes(module: nn.Module) -> int:
    """Of its parameters and buffers; memory that several of them share counts once."""
    held = {tensor.untyped_storage().data_ptr(): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def whole_bytes(model: MusicGen) -> int:
    """Of a model as audiocraft holds it."""
    return module_bytes(model.lm) + _text_encoder_bytes(model.lm) + module_bytes(model.compression_model)


def weights_bytes(model: MusicGen, weights: DecoderWeights) -> int:
    """Of a model that was taken apart: the decoder's weights as they are held, text encoder and codec as they were."""
    kept = module_bytes(model.lm.condition_provider) + _text_encoder_bytes(model.lm)
    return weights.held_bytes + kept + module_bytes(model.compression_model)


def cache_bytes(decoder: Decoder) -> int:
    """Of its keys and values."""
    return sum(keys.nbytes + values.nbytes for keys, values in decoder.cache)


def _text_encoder_bytes(lm: LMModel) -> int:
    """audiocraft keeps a frozen text encoder out of the module that it is in."""
    conditioners: Any = lm.condition_provider.conditioners
    return module_bytes(conditioners["description"].t5)
