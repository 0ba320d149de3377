"""The decoder: one pass over the rows of a step, whatever their lengths. It knows positions and rows, not requests.

All positions that are fed in a step go through each matrix together, N of them; only attention is done row by row, over
exactly the keys that the row has. A prompt's chunk and everybody's next token so share one reading of the weights.

Shapes: N positions fed, R cache rows, K codebooks, D width, H heads, L layers, S window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

from gary.engine.weights import DecoderWeights, LayerWeights


@dataclass(frozen=True)
class CrossCache:
    """A description's keys and values: per layer [1, H, text, D / H]. Made once a request."""

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Segment:
    """A run of positions of one row, within the N of a pass.

    Attributes:
        at: index of its first position among the N.
        row: of the cache.
        start: position in the sequence.
        length: positions fed.
        cross: what the row is conditioned on; None for the null condition, whose cross attention is exactly zero.
    """

    at: int
    row: int
    start: int
    length: int
    cross: CrossCache | None


class Decoder:
    """The weights with a cache of `rows` rows of `window` positions, all of it taken at once.

    One tensor a layer: where all layers were views of one, torch.compile was seen to be 7 times slower.
    """

    def __init__(self, weights: DecoderWeights, rows: int, window: int, device: str) -> None:
        self.weights = weights
        shape = weights.shape
        size = (rows, shape.heads, window, shape.head_width)  # [R, H, S, D / H]
        self._keys = [torch.zeros(size, dtype=weights.dtype, device=device) for _ in range(shape.layers)]
        self._values = [torch.zeros(size, dtype=weights.dtype, device=device) for _ in range(shape.layers)]
        self._positions = _sinusoids(window, weights, device)  # [S, D]

    def cross_cache(self, text: torch.Tensor) -> CrossCache:
        """Keys and values of a description.

        Args:
            text: [1, text, D], audiocraft's condition tensor, of this description alone.
        """
        text = text.to(self.weights.dtype)
        return CrossCache(
            keys=tuple(self._by_head(F.linear(text, layer.keys_cross)) for layer in self.weights.layers),
            values=tuple(self._by_head(F.linear(text, layer.values_cross)) for layer in self.weights.layers),
        )

    def forward(self, tokens: torch.Tensor, segments: Sequence[Segment], wanted: torch.Tensor) -> torch.Tensor:
        """Feeds positions and writes them into the cache.

        Args:
            tokens: [N, K] int64, the segments' tokens one after the other.
            wanted: [W] indices among the N whose logits are wanted.

        Returns:
            [W, K, card] float32.
        """
        shape = self.weights.shape
        x = self._embed(tokens, segments)  # [N, D]
        for index, layer in enumerate(self.weights.layers):
            x = x + layer.out_self(self._attend_self(index, layer.qkv(layer.norm_self(x)), segments))
            x = self._attend_cross(index, layer, x, segments)
            x = x + layer.down(layer.activation(layer.up(layer.norm_ff(x))))
        logits = self.weights.heads(self.weights.norm_out(x[wanted]))  # [W, K card]
        return logits.float().view(-1, shape.codebooks, shape.card)

    def _embed(self, tokens: torch.Tensor, segments: Sequence[Segment]) -> torch.Tensor:
        tables = self.weights.embeddings
        x = F.embedding(tokens[:, 0], tables[0])
        for codebook in range(
            1, self.weights.shape.codebooks
        ):  # in audiocraft's order: sums do not commute with rounding
            x = x + F.embedding(tokens[:, codebook], tables[codebook])
        return x + torch.cat([self._positions[part.start : part.start + part.length] for part in segments])

    def _attend_self(self, index: int, qkv: torch.Tensor, segments: Sequence[Segment]) -> torch.Tensor:
        """[N, 3 D] -> [N, D]: each row over its own past, its new keys and values written first."""
        shape = self.weights.shape
        query, key, value = qkv.view(-1, 3, shape.heads, shape.head_width).unbind(1)  # [N, H, D / H] each
        attended = torch.empty_like(query)
        for part in segments:
            here, end = slice(part.at, part.at + part.length), part.start + part.length
            keys, values = self._keys[index][part.row], self._values[index][part.row]  # [H, S, D / H]
            keys[:, part.start : end] = key[here].transpose(0, 1)
            values[:, part.start : end] = value[here].transpose(0, 1)
            mask = None if part.length == 1 else _causal(part, query.device)
            made = F.scaled_dot_product_attention(
                query[here].transpose(0, 1)[None], keys[None, :, :end], values[None, :, :end], attn_mask=mask
            )  # [1, H, length, D / H]
            attended[here] = made[0].transpose(0, 1)
        return attended.view(-1, shape.width)

    def _attend_cross(
        self, index: int, layer: LayerWeights, x: torch.Tensor, segments: Sequence[Segment]
    ) -> torch.Tensor:
        """Adds each description to the rows that have one."""
        parts = [part for part in segments if part.cross is not None]
        if not parts:
            return x
        shape = self.weights.shape
        chosen = torch.cat([torch.arange(part.at, part.at + part.length, device=x.device) for part in parts])
        query = layer.query_cross(layer.norm_cross(x[chosen])).view(-1, shape.heads, shape.head_width)
        attended, at = torch.empty_like(query), 0
        for part in parts:
            assert part.cross is not None
            here = slice(at, at + part.length)
            made = F.scaled_dot_product_attention(
                query[here].transpose(0, 1)[None], part.cross.keys[index], part.cross.values[index]
            )
            attended[here] = made[0].transpose(0, 1)
            at += part.length
        return x.index_add(0, chosen, layer.out_cross(attended.view(-1, shape.width)))

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        """[1, text, D] -> [1, H, text, D / H]"""
        shape = self.weights.shape
        return x.view(1, -1, shape.heads, shape.head_width).transpose(1, 2).contiguous()


def _causal(part: Segment, device: torch.device) -> torch.Tensor:
    """[length, start + length] bool: a position sees itself and what lies before it."""
    ones = torch.ones(part.length, part.start + part.length, dtype=torch.bool, device=device)
    return ones.tril(diagonal=part.start)


def _sinusoids(window: int, weights: DecoderWeights, device: str) -> torch.Tensor:
    """[S, D]; the divisor of the exponent is half - 1 (audiocraft's create_sin_embedding), in its own precision."""
    half = weights.shape.width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=device) / (half - 1)
    periods = torch.full([], weights.max_period, dtype=torch.float32, device=device) ** exponents
    phase = torch.arange(window, dtype=torch.float32, device=device)[:, None] / periods
    table = torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)
    return (weights.position_scale * table).to(weights.dtype)
