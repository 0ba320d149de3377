"""Residual codebooks by k-means, level by level, over the latents of an encoder that is not trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROWS = 8192  # compared with all centres at once: bounds the memory


def k_means(points: Tensor, count: int, rounds: int, random: torch.Generator) -> Tensor:
    """Centres [count, D] of points [P, D]; a centre that nobody is nearest to moves to where the error is largest.

    Raises:
        ValueError: fewer points than centres.
    """
    if len(points) < count:
        raise ValueError(f"{count} centres from {len(points)} points")
    chosen = torch.randperm(len(points), generator=random)[:count]
    centres = points[chosen.to(points.device)].clone()
    for _ in range(rounds):
        nearest, error = assign(points, centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        members = torch.bincount(nearest, minlength=count)
        full = members > 0
        centres[full] = sums[full] / members[full, None]
        empty = int((~full).sum())
        if empty:
            centres[~full] = points[error.topk(empty).indices]
    return centres


def assign(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each point, [P], and its squared distance, [P]."""
    lengths = centres.square().sum(1)
    nearest, error = [], []
    for rows in points.split(_ROWS):
        best = (lengths - 2 * rows @ centres.T).min(dim=1)
        nearest.append(best.indices)
        error.append((best.values + rows.square().sum(1)).clamp_min(0))
    return torch.cat(nearest), torch.cat(error)


@torch.no_grad()
def fill(codec: Any, latents: Tensor, rounds: int) -> list[float]:
    """Puts codebooks into a codec's quantizer.

    Args:
        latents: [P, D] of the codec's encoder.

    Returns:
        The share of the latents' variance that is left after each level.
    """
    random = torch.Generator().manual_seed(4)
    variance = latents.var(dim=0).sum()
    residual, left = latents, []
    for layer in codec.quantizer.vq.layers:
        book = layer._codebook  # noqa: SLF001 - audiocraft gives it no other name
        centres = k_means(residual, book.codebook_size, rounds, random)
        nearest, _ = assign(residual, centres)
        book.embed.copy_(centres)
        book.embed_avg.copy_(centres)
        book.cluster_size.copy_(torch.bincount(nearest, minlength=len(centres)))
        book.inited.fill_(1)
        residual = residual - centres[nearest]
        left.append(float(residual.square().sum(1).mean() / variance))
    return left
