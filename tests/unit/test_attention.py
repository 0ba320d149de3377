"""Our attention of single positions against torch's own, and against itself alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from gary.engine.attention import Singles, attend, available, write

HEADS, WINDOW, WIDTH = 3, 70, 16
ENDS = [1, 2, 17, 70, 33]  # of row 0, 1, ...
TYPES = [torch.float32, torch.bfloat16]


def _random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _places(chosen: list[int], start: int = 0) -> Singles:
    places = Singles.of((index, row, min(start, ENDS[row] - 1), ENDS[row]) for index, row in enumerate(chosen))
    assert places is not None
    return places


def _attended(dtype: torch.dtype, chosen: list[int], scale: float = 1.0, start: int = 0) -> torch.Tensor:
    """[n, H, D / H] of the chosen rows."""
    queries = scale * _random(len(ENDS), HEADS, WIDTH, dtype=dtype, seed=1)[chosen]
    keys = _random(len(ENDS), HEADS, WINDOW, WIDTH, dtype=dtype, seed=2)
    values = _random(len(ENDS), HEADS, WINDOW, WIDTH, dtype=dtype, seed=3)
    out = torch.full((len(chosen), HEADS, WIDTH), torch.nan)
    attend(queries, keys, values, _places(chosen, start), out)
    return out


def _reference(dtype: torch.dtype, row: int, scale: float = 1.0, start: int = 0) -> torch.Tensor:
    """[H, D / H] of one row by torch, in float64."""
    query = scale * _random(len(ENDS), HEADS, WIDTH, dtype=dtype, seed=1)[row]
    keys = _random(len(ENDS), HEADS, WINDOW, WIDTH, dtype=dtype, seed=2)[row]
    values = _random(len(ENDS), HEADS, WINDOW, WIDTH, dtype=dtype, seed=3)[row]
    past = slice(min(start, ENDS[row] - 1), ENDS[row])
    made = F.scaled_dot_product_attention(query[:, None].double(), keys[:, past].double(), values[:, past].double())
    return made[:, 0]


def test_the_kernel_runs_here() -> None:
    """Elsewhere the decoder takes torch's; here a fall back would go unnoticed."""
    assert available()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["even", "peaked"])
@pytest.mark.parametrize("start", [0, 5])
def test_equals_torch(dtype: torch.dtype, scale: float, start: int) -> None:
    """The same as torch's in float64, to rounding, also where one key takes all the weight."""
    ours = _attended(dtype, list(range(len(ENDS))), scale, start)
    theirs = torch.stack([_reference(dtype, row, scale, start) for row in range(len(ENDS))])
    assert (ours - theirs).abs().max() < 2e-6


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_alone_as_in_company(dtype: torch.dtype) -> None:
    """A row's result is the same bit for bit whoever is fed beside it, on one thread or two."""
    together = _attended(dtype, [3, 0, 4, 1, 2])
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        try:
            for index, row in enumerate([3, 0, 4, 1, 2]):
                queries = _attended(dtype, [row])
                assert torch.equal(queries[0], together[index])
        finally:
            torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_writes_at_the_end_of_each_stretch(dtype: torch.dtype) -> None:
    """Keys and values land in their rows' last position and nowhere else."""
    fed = _random(2, 3, HEADS, WIDTH, dtype=dtype)
    keys, values = (torch.zeros(len(ENDS), HEADS, WINDOW, WIDTH, dtype=dtype) for _ in range(2))
    write(fed, keys, values, _places([3, 1]))
    for index, row in enumerate([3, 1]):
        assert torch.equal(keys[row, :, ENDS[row] - 1], fed[index, 1])
        assert torch.equal(values[row, :, ENDS[row] - 1], fed[index, 2])
        keys[row, :, ENDS[row] - 1] = 0
        values[row, :, ENDS[row] - 1] = 0
    assert not keys.any()
    assert not values.any()


def test_nothing_to_attend_is_none() -> None:
    assert Singles.of([]) is None
