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


@dataclass(frozen=True)
class _Run:
    """Neighbouring rows that are fed the same positions, such as the two of a guided request: one call of attention."""

    at: int
    row: int
    rows: int
    start: int
    length: int


class Decoder:
    """The weights with a cache of `rows` rows of `window` positions, all of it taken at once.

    One tensor a layer: where all layers were views of one, torch.compile was seen to be 7 times slower. On the CPU keys
    and values are fp32 whatever the weights are: torch's attention of one query over bf16 keys took 5 to 8 times as
    long as over twice the bytes of fp32.
    """

    def __init__(self, weights: DecoderWeights, rows: int, window: int, device: str) -> None:
        self.weights = weights
        shape = weights.shape
        size = (rows, shape.heads, window, shape.head_width)  # [R, H, S, D / H]
        self._cache_dtype = cache_dtype(weights, device)
        self._keys = [torch.zeros(size, dtype=self._cache_dtype, device=device) for _ in range(shape.layers)]
        self._values = [torch.zeros(size, dtype=self._cache_dtype, device=device) for _ in range(shape.layers)]
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
        runs = _runs(segments)
        masks = [None if run.length == 1 else _causal(run, x.device) for run in runs]
        for index, layer in enumerate(self.weights.layers):
            x = x + layer.out_self(self._attend_self(index, layer.qkv(layer.norm_self(x)), runs, masks))
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

    def _attend_self(
        self, index: int, qkv: torch.Tensor, runs: Sequence[_Run], masks: Sequence[torch.Tensor | None]
    ) -> torch.Tensor:
        """[N, 3 D] -> [N, D]: each row over its own past, its new keys and values written first."""
        shape = self.weights.shape
        split = qkv.to(self._cache_dtype).view(-1, 3, shape.heads, shape.head_width)  # [N, 3, H, D / H]
        attended = []
        for run, mask in zip(runs, masks, strict=True):
            here, end = slice(run.at, run.at + run.rows * run.length), run.start + run.length
            fed = split[here].view(run.rows, run.length, 3, shape.heads, shape.head_width)
            query, key, value = fed.permute(2, 0, 3, 1, 4)  # [rows, H, length, D / H] each
            keys = self._keys[index][run.row : run.row + run.rows, :, :end]  # [rows, H, end, D / H]
            values = self._values[index][run.row : run.row + run.rows, :, :end]
            keys[:, :, run.start :] = key
            values[:, :, run.start :] = value
            made = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            attended.append(made.transpose(1, 2).reshape(-1, shape.width))
        return torch.cat(attended).to(qkv.dtype)

    def _attend_cross(
        self, index: int, layer: LayerWeights, x: torch.Tensor, segments: Sequence[Segment]
    ) -> torch.Tensor:
        """Adds each description to the rows that have one."""
        parts = [part for part in segments if part.cross is not None]
        if not parts:
            return x
        shape = self.weights.shape
        chosen = torch.cat([torch.arange(part.at, part.at + part.length, device=x.device) for part in parts])
        query = layer.query_cross(layer.norm_cross(x[chosen])).to(self._cache_dtype)
        attended = []
        for part, fed in zip(parts, query.split([part.length for part in parts]), strict=True):
            assert part.cross is not None
            heads = fed.view(1, -1, shape.heads, shape.head_width).transpose(1, 2)  # [1, H, length, D / H]
            made = F.scaled_dot_product_attention(heads, part.cross.keys[index], part.cross.values[index])
            attended.append(made.transpose(1, 2).reshape(-1, shape.width))
        return x.index_add(0, chosen, layer.out_cross(torch.cat(attended).to(x.dtype)))

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        """[1, text, D] -> [1, H, text, D / H]"""
        shape = self.weights.shape
        return x.to(self._cache_dtype).view(1, -1, shape.heads, shape.head_width).transpose(1, 2).contiguous()


def cache_dtype(weights: DecoderWeights, device: str) -> torch.dtype:
    """Of keys and values: see `Decoder`."""
    return torch.float32 if device == "cpu" else weights.dtype


def _runs(segments: Sequence[Segment]) -> list[_Run]:
    runs: list[_Run] = []
    for part in segments:
        last = runs[-1] if runs else None
        if last and (part.row, part.start, part.length) == (last.row + last.rows, last.start, last.length):
            runs[-1] = _Run(last.at, last.row, last.rows + 1, last.start, last.length)
        else:
            runs.append(_Run(part.at, part.row, 1, part.start, part.length))
    return runs


def _causal(run: _Run, device: torch.device) -> torch.Tensor:
    """[length, start + length] bool: a position sees itself and what lies before it."""
    ones = torch.ones(run.length, run.start + run.length, dtype=torch.bool, device=device)
    return ones.tril(diagonal=run.start)


def _sinusoids(window: int, weights: DecoderWeights, device: str) -> torch.Tensor:
    """[S, D]; the divisor of the exponent is half - 1 (audiocraft's create_sin_embedding), in its own precision."""
    half = weights.shape.width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=device) / (half - 1)
    periods = torch.full([], weights.max_period, dtype=torch.float32, device=device) ** exponents
    phase = torch.arange(window, dtype=torch.float32, device=device)[:, None] / periods
    table = torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)
    return (weights.position_scale * table).to(weights.dtype)
