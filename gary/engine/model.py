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

from gary.engine.attention import Singles, attend, available, write
from gary.engine.linear import filled
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


@dataclass(frozen=True)
class _CrossLayout:
    """How the conditioned positions of a pass, M of the N, attend to their descriptions.

    Attributes:
        chosen: [M] of the N.
        texts: the descriptions that `singles` attend to, one after the other.
        others: (first, end) among the M and the description of each longer segment.
    """

    chosen: torch.Tensor
    singles: Singles | None
    texts: CrossCache | None
    others: Sequence[tuple[int, int, CrossCache]]


@dataclass(frozen=True)
class _Layout:
    """How the positions of a pass attend: single ones all at once where our own kernel runs, the others run by run."""

    singles: Singles | None
    runs: Sequence[_Run]
    masks: Sequence[torch.Tensor | None]
    cross: _CrossLayout | None


class Decoder:
    """The weights with a cache of `rows` rows of `window` positions, all of it taken at once.

    One tensor a layer: where all layers were views of one, torch.compile was seen to be 7 times slower.
    """

    def __init__(self, weights: DecoderWeights, rows: int, window: int, device: str) -> None:
        self.weights = weights
        shape = weights.shape
        size = (rows, shape.heads, window, shape.head_width)  # [R, H, S, D / H]
        self._tile = weights.tile
        self._cache_dtype = cache_dtype(weights, device)
        self._own_attention = device == "cpu" and available()
        self._attention_dtype = torch.float32 if device == "cpu" else self._cache_dtype  # that of what comes of it
        self._joined_last: tuple[list[CrossCache], CrossCache] = ([], CrossCache((), ()))
        self._keys = [torch.zeros(size, dtype=self._cache_dtype, device=device) for _ in range(shape.layers)]
        self._values = [torch.zeros(size, dtype=self._cache_dtype, device=device) for _ in range(shape.layers)]
        self._positions = _sinusoids(window, weights, device)  # [S, D]

    @property
    def cache(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of every layer, [R, H, S, D / H]; they keep their addresses."""
        return list(zip(self._keys, self._values, strict=True))

    @property
    def row_bytes(self) -> int:
        """Of one row of the cache: keys and values of all layers."""
        return sum(keys[0].nbytes + values[0].nbytes for keys, values in self.cache)

    @property
    def positions(self) -> torch.Tensor:
        """[S, D]: what is added to the embedding of each position."""
        return self._positions

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

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Gives rows the first `length` positions of others, bit for bit; no row is both source and target."""
        for tensor in (*self._keys, *self._values):
            for source, target in zip(sources, targets, strict=True):
                tensor[target, :, :length] = tensor[source, :, :length]

    def forward(self, tokens: torch.Tensor, segments: Sequence[Segment], wanted: torch.Tensor) -> torch.Tensor:
        """Feeds positions and writes them into the cache.

        Args:
            tokens: [N, K] int64, the segments' tokens one after the other.
            wanted: [W] indices among the N whose logits are wanted.

        Returns:
            [W, K, card] float32.
        """
        shape = self.weights.shape
        x = filled(self._embed(tokens, segments), self._tile)  # [N, D]; N counts the rows below, too, from here on
        layout = self._lay_out(segments, x.device)
        for index, layer in enumerate(self.weights.layers):
            x = x + layer.out_self(self._attend_self(index, layer.qkv(layer.norm_self(x)), layout))
            x = self._attend_cross(index, layer, x, layout.cross)
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

    def _lay_out(self, segments: Sequence[Segment], device: torch.device) -> _Layout:
        singles = [part for part in segments if self._is_single(part)]
        runs = _runs([part for part in segments if not self._is_single(part)])
        masks = [None if run.length == 1 else _causal(run, device) for run in runs]
        places = Singles.of((part.at, part.row, 0, part.start + 1) for part in singles)
        return _Layout(places, runs, masks, self._lay_out_cross(segments, device))

    def _lay_out_cross(self, segments: Sequence[Segment], device: torch.device) -> _CrossLayout | None:
        chosen: list[int] = []
        places, others, caches, text_end = [], [], [], 0
        for part in segments:
            if part.cross is None:
                continue
            if self._is_single(part):
                text_start, text_end = text_end, text_end + part.cross.keys[0].shape[2]
                places.append((len(chosen), 0, text_start, text_end))
                caches.append(part.cross)
            else:
                others.append((len(chosen), len(chosen) + part.length, part.cross))
            chosen += range(part.at, part.at + part.length)
        if not chosen:
            return None
        texts = self._joined(caches) if caches else None
        return _CrossLayout(torch.tensor(chosen, device=device), Singles.of(places), texts, others)

    def _is_single(self, part: Segment) -> bool:
        return self._own_attention and part.length == 1

    def _joined(self, caches: list[CrossCache]) -> CrossCache:
        """Descriptions one after the other; made anew only when somebody has come or gone."""
        parts, joined = self._joined_last
        if len(parts) != len(caches) or any(ours is not theirs for ours, theirs in zip(parts, caches, strict=True)):
            keys = tuple(torch.cat(layer, dim=2) for layer in zip(*(each.keys for each in caches), strict=True))
            values = tuple(torch.cat(layer, dim=2) for layer in zip(*(each.values for each in caches), strict=True))
            joined = CrossCache(keys, values)
            self._joined_last = (caches, joined)
        return joined

    def _attend_self(self, index: int, qkv: torch.Tensor, layout: _Layout) -> torch.Tensor:
        """[N, 3 D] -> [N, D]: each row over its own past, its new keys and values written first."""
        shape = self.weights.shape
        split = qkv.to(self._cache_dtype).view(-1, 3, shape.heads, shape.head_width)  # [N, 3, H, D / H]
        wide = self._attention_dtype
        attended = torch.zeros(split.shape[0], shape.heads, shape.head_width, dtype=wide, device=split.device)
        if layout.singles is not None:
            write(split, self._keys[index], self._values[index], layout.singles)
            attend(split[:, 0], self._keys[index], self._values[index], layout.singles, attended)
        for run, mask in zip(layout.runs, layout.masks, strict=True):
            here, end = slice(run.at, run.at + run.rows * run.length), run.start + run.length
            fed = split[here].view(run.rows, run.length, 3, shape.heads, shape.head_width)
            query, key, value = fed.permute(2, 0, 3, 1, 4)  # [rows, H, length, D / H] each
            keys = self._keys[index][run.row : run.row + run.rows, :, :end]  # [rows, H, end, D / H]
            values = self._values[index][run.row : run.row + run.rows, :, :end]
            keys[:, :, run.start :] = key
            values[:, :, run.start :] = value
            made = F.scaled_dot_product_attention(query.to(wide), keys.to(wide), values.to(wide), attn_mask=mask)
            attended[here] = made.transpose(1, 2).flatten(0, 1)
        return attended.view(-1, shape.width).to(qkv.dtype)

    def _attend_cross(
        self, index: int, layer: LayerWeights, x: torch.Tensor, layout: _CrossLayout | None
    ) -> torch.Tensor:
        """Adds each description to the rows that have one."""
        if layout is None:
            return x
        shape, wide = self.weights.shape, self._attention_dtype
        query = layer.query_cross(layer.norm_cross(x[layout.chosen])).to(self._cache_dtype)
        heads = query.view(-1, shape.heads, shape.head_width)  # [M, H, D / H]
        attended = torch.empty(heads.shape, dtype=wide, device=x.device)
        if layout.singles is not None and layout.texts is not None:
            attend(heads, layout.texts.keys[index], layout.texts.values[index], layout.singles, attended)
        for first, end, text in layout.others:
            fed = heads[None, first:end].transpose(1, 2)  # [1, H, length, D / H]
            made = F.scaled_dot_product_attention(fed.to(wide), text.keys[index].to(wide), text.values[index].to(wide))
            attended[first:end] = made.transpose(1, 2).flatten(0, 1)
        return x.index_add(0, layout.chosen, layer.out_cross(attended.view(-1, shape.width).to(x.dtype)))

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        """[1, text, D] -> [1, H, text, D / H]"""
        shape = self.weights.shape
        return x.to(self._cache_dtype).view(1, -1, shape.heads, shape.head_width).transpose(1, 2).contiguous()


def cache_dtype(weights: DecoderWeights, device: str) -> torch.dtype:
    """Of keys and values: that of the weights, but fp32 on a CPU where torch's attention must do with it: over bf16 it
    took 5 to 8 times as long, and fp16 is not among those that ours reads.
    """
    if device != "cpu" or (available() and weights.dtype == torch.bfloat16):
        return weights.dtype
    return torch.float32


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
