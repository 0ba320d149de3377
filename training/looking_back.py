"""The language model's beginning: two layers that already know how to look back and say what came next.

An induction circuit (Olsson et al. 2022, arXiv 2209.11895), written into weights instead of waited for: the first layer
tells each position what the one before it heard, found by the clock of the sinusoidal positions; the second looks for
positions whose predecessor heard what is heard now, and brings what they heard; the output layers know the embeddings.
Music that repeats is continued by it before any training. Everything else begins silent and is learned.

Of the D numbers of a position some are kept free of tokens: `clock`, fast positions; `before`, for what the one before
it heard. Tokens have the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_MAX_PERIOD = 10_000  # of audiocraft's positions
_TOKEN_DEVIATION = 0.8  # of an embedding's numbers: so that four of them outweigh the positions
_CLOCK, _MATCH, _COPY, _SAY = 4.65, 2.2, 1.5, 0.3  # gains: sure of one position back, of a match, and of what was said
_LOOKERS = 2  # heads that find one position back, and pairs of views that are compared


@torch.no_grad()
def prepare(lm: Any, seed: int) -> None:
    """Writes the circuit into an untrained `LMModel` of at least two layers, and silences what is not of it."""
    random = torch.Generator().manual_seed(seed)
    layers = lm.transformer.layers
    attention = layers[0].self_attn
    width, heads = attention.embed_dim, attention.num_heads
    each = width // heads
    assert each % 2 == 0, f"{each} numbers a head are no pairs"
    pairs = torch.arange(width // 2)
    clock = _both(pairs[: each // 2], width)
    before = [_both(pairs[len(pairs) - (view + 1) * each // 2 :][: each // 2], width) for view in range(_LOOKERS)]
    free = torch.ones(width, dtype=torch.bool)
    free[torch.cat([clock, *before])] = False
    tokens = free.nonzero()[:, 0]  # [C]

    for layer in layers:
        layer.self_attn.out_proj.weight.zero_()
        layer.linear2.weight.zero_()
        if layer.cross_attention is not None:
            layer.cross_attention.out_proj.weight.zero_()
    for embedding in lm.emb:
        embedding.weight.zero_()
        embedding.weight[:, tokens] = _TOKEN_DEVIATION * torch.randn(
            len(embedding.weight), len(tokens), generator=random
        )
    views = [_orthonormal(len(tokens), each, random).T for _ in range(_LOOKERS)]  # each [each, C]

    turn = _turn(each // 2, width)
    for head, (view, place) in enumerate(zip(views, before, strict=True)):
        query, key, value = _rows(layers[0].self_attn, head)
        query.zero_()[:, clock] = _CLOCK * turn
        key.zero_()[:, clock] = _CLOCK * torch.eye(each)
        value.zero_()[:, tokens] = view
        _write(layers[0].self_attn, head, _at(place, width))

    said = _orthonormal(width, len(tokens), random)  # [D, C], where what is brought is put
    for head, part in enumerate(torch.arange(len(tokens)).split(each)):
        query, key, value = _rows(layers[1].self_attn, head)
        query.zero_()[:, tokens] = _MATCH * views[head % _LOOKERS]
        key.zero_()[:, before[head % _LOOKERS]] = _MATCH * torch.eye(each)
        value.zero_()[: len(part), tokens[part]] = torch.eye(len(part))
        _write(layers[1].self_attn, head, _COPY * torch.nn.functional.pad(said[:, part], (0, each - len(part))))
    for embedding, linear in zip(lm.emb, lm.linears, strict=True):
        linear.weight.copy_(_SAY * embedding.weight[: len(linear.weight), tokens] @ said.T)


def _both(pairs: Tensor, width: int) -> Tensor:
    """Where cosine and sine of some pairs lie."""
    return torch.cat([pairs, pairs + width // 2])


def _turn(count: int, width: int) -> Tensor:
    """What makes of the clock's `count` fastest pairs those of one position before: [2 * count, 2 * count]."""
    angle = _MAX_PERIOD ** -(torch.arange(count) / (width // 2 - 1))
    cosine, sine = torch.diag(angle.cos()), torch.diag(angle.sin())
    return torch.cat([torch.cat([cosine, sine], dim=1), torch.cat([-sine, cosine], dim=1)])


def _rows(attention: Any, head: int) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of a head's queries, keys and values, each [D / heads, D], to be written."""
    each = attention.embed_dim // attention.num_heads
    packed = attention.in_proj_weight
    first, second, third = (packed[part * attention.embed_dim + head * each :][:each] for part in range(3))
    return first, second, third


def _write(attention: Any, head: int, weight: Tensor) -> None:
    """Where a head's values go: weight [D, D / heads]."""
    each = attention.embed_dim // attention.num_heads
    attention.out_proj.weight[:, head * each : (head + 1) * each] = weight


def _at(place: Tensor, width: int) -> Tensor:
    """Puts numbers where they belong: [D, len(place)]."""
    chosen = torch.zeros(width, len(place))
    chosen[place, torch.arange(len(place))] = 1
    return chosen


def _orthonormal(rows: int, columns: int, random: torch.Generator) -> Tensor:
    """[rows, columns], its columns of length 1 and at right angles."""
    directions: Tensor = torch.linalg.qr(torch.randn(rows, columns, generator=random))[0]
    return directions
