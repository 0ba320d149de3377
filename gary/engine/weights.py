"""audiocraft's LMModel taken apart: its tensors in our own layout, after which its modules can be freed.

Only what MusicGen's checkpoints are is taken: pre-norm layers, no biases in the projections, sinusoidal positions,
descriptions by cross attention. Anything else is refused here, rather than decoded wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gary.engine.linear import DTYPES, Linear, Precision, make_linear
from gary.errors import CheckpointError

if TYPE_CHECKING:
    from audiocraft.models.lm import LMModel


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a decoder."""

    layers: int
    width: int  # D
    heads: int
    codebooks: int  # K
    card: int  # tokens of a codebook; the number itself is the special token

    @property
    def head_width(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class Norm:
    """A layer norm's weight and bias, [D] each."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    @property
    def held_bytes(self) -> int:
        return self.weight.nbytes + self.bias.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class LayerWeights:
    """One layer, in the order of its work."""

    norm_self: Norm
    qkv: Linear  # [D] -> [3 D]
    out_self: Linear  # [D] -> [D]
    norm_cross: Norm
    query_cross: Linear  # [D] -> [D]
    keys_cross: torch.Tensor  # [D, D], used once a request
    values_cross: torch.Tensor  # [D, D], used once a request
    out_cross: Linear  # [D] -> [D]
    norm_ff: Norm
    up: Linear  # [D] -> [F]
    down: Linear  # [F] -> [D]
    activation: Callable[[torch.Tensor], torch.Tensor]

    @property
    def products(self) -> tuple[Linear, ...]:
        return self.qkv, self.out_self, self.query_cross, self.out_cross, self.up, self.down

    @property
    def held_bytes(self) -> int:
        norms = sum(norm.held_bytes for norm in (self.norm_self, self.norm_cross, self.norm_ff))
        used_once = self.keys_cross.nbytes + self.values_cross.nbytes
        return norms + used_once + sum(product.held_bytes for product in self.products)


@dataclass(frozen=True)
class DecoderWeights:
    """A whole decoder.

    Attributes:
        embeddings: [K, card + 1, D].
        position_scale, max_period: of the sinusoidal positions.
        heads: [D] -> [K card].
    """

    shape: DecoderShape
    dtype: torch.dtype
    embeddings: torch.Tensor
    position_scale: float
    max_period: float
    layers: tuple[LayerWeights, ...]
    norm_out: Norm
    heads: Linear

    @property
    def tile(self) -> int:
        """Rows that come in multiples of this are not filled up by each product anew."""
        return max(product.tile for layer in self.layers for product in layer.products)

    @property
    def held_bytes(self) -> int:
        layers = sum(layer.held_bytes for layer in self.layers)
        return self.embeddings.nbytes + layers + self.norm_out.held_bytes + self.heads.held_bytes


def take_weights(lm: LMModel, precision: Precision) -> DecoderWeights:
    """The tensors of `lm`, cast and packed; nothing of `lm` is kept but what needs no cast.

    Raises:
        CheckpointError: the model is built otherwise than MusicGen's.
    """
    _refuse_others(lm)
    transformer = lm.transformer
    dtype = DTYPES[precision]
    first: Any = transformer.layers[0]
    shape = DecoderShape(
        layers=len(transformer.layers),
        width=lm.dim,
        heads=first.self_attn.num_heads,
        codebooks=lm.num_codebooks,
        card=lm.card,
    )
    heads: Any = lm.linears
    tables: Any = lm.emb
    head_weights = torch.cat([head.weight for head in heads])  # [K card, D]
    return DecoderWeights(
        shape=shape,
        dtype=dtype,
        embeddings=torch.stack([table.weight.detach().to(dtype) for table in tables]),
        position_scale=transformer.positional_scale,
        max_period=transformer.max_period,
        layers=tuple(_take_layer(layer, precision) for layer in transformer.layers),
        norm_out=_take_norm(lm.out_norm, dtype),
        heads=make_linear(head_weights, precision),
    )


def _take_layer(layer: Any, precision: Precision) -> LayerWeights:
    in_self, out_self = _projections(layer.self_attn)
    in_cross, out_cross = _projections(layer.cross_attention)
    query, keys, values = in_cross.chunk(3)
    dtype = DTYPES[precision]
    return LayerWeights(
        norm_self=_take_norm(layer.norm1, dtype),
        qkv=make_linear(in_self, precision),
        out_self=make_linear(out_self, precision),
        norm_cross=_take_norm(layer.norm_cross, dtype),
        query_cross=make_linear(query, precision),
        keys_cross=keys.detach().to(dtype),
        values_cross=values.detach().to(dtype),
        out_cross=make_linear(out_cross, precision),
        norm_ff=_take_norm(layer.norm2, dtype),
        up=make_linear(layer.linear1.weight, precision),
        down=make_linear(layer.linear2.weight, precision),
        activation=layer.activation,
    )


def _take_norm(norm: Any, dtype: torch.dtype) -> Norm:
    return Norm(norm.weight.detach().to(dtype), norm.bias.detach().to(dtype), norm.eps)


def _projections(attention: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(in [3 D, D], out [D, D]); they lie one level deeper where audiocraft uses torch's own attention."""
    holder = attention if attention.custom else attention.mha
    return holder.in_proj_weight, holder.out_proj.weight


def _refuse_others(lm: LMModel) -> None:
    first: Any = lm.transformer.layers[0]
    attention = first.self_attn
    holder = attention if attention.custom else attention.mha
    unlike = {
        "post-norm layers": not first.norm_first,
        "no cross attention": first.cross_attention is None,
        "rotary positions": attention.rope is not None,
        "repeated keys": attention.kv_repeat != 1,
        "normalised queries": attention.qk_layer_norm,
        "a bounded past": attention.past_context is not None,
        "biases in attention": holder.in_proj_bias is not None,
        "biases in the feed-forward": first.linear1.bias is not None,
        "biases in the heads": lm.linears[0].bias is not None,
        "scaled layers": not isinstance(first.layer_scale_1, torch.nn.Identity),
        "conditions other than a description by cross attention": lm.fuser.fuse2cond.get("cross") != ["description"]
        or any(names for way, names in lm.fuser.fuse2cond.items() if way != "cross"),
        "positions in cross attention": lm.fuser.cross_attention_pos_emb,
    }
    found = [what for what, holds in unlike.items() if holds]
    if found:
        raise CheckpointError(f"the checkpoint's decoder is not MusicGen's: it has {', '.join(found)}")
