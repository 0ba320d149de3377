"""Packed products: a row comes out the same in any company, which is what makes batching exact."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from gary.engine import linear
from gary.engine.linear import Precision, check_precision, make_linear
from gary.errors import FatalError

# Widths of the tiny checkpoint, the demo model, small and medium, and what lies between; [in, out].
SHAPES = [
    (64, 64),
    (64, 192),
    (768, 192),
    (256, 64),
    (320, 960),
    (512, 512),
    (2048, 512),
    (512, 8192),
    (1024, 1024),
    (1536, 1536),
]


@pytest.fixture(params=[1, 2, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def supported(precision: Precision) -> Precision:
    try:
        check_precision(precision, "cpu")
    except FatalError as error:
        pytest.skip(str(error))
    return precision


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_is_the_same_in_any_company(shape: tuple[int, int], threads: int) -> None:
    """However many rows there are, at whichever place, and however many threads share them out."""
    inputs, outputs = shape
    product = make_linear(random(outputs, inputs) / inputs**0.5, "fp32")
    x = random(200, inputs)
    alone = torch.cat([product(row) for row in x.split(1)])
    chance = Random(inputs + threads)
    for rows in [*range(2, 33), *chance.sample(range(33, 200), 12), 200]:
        first = chance.randrange(200 - rows + 1)
        assert torch.equal(product(x[first : first + rows]), alone[first : first + rows]), f"{rows} rows"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_it_is_the_product(precision: Precision) -> None:
    weight, x = random(96, 64) / 8, random(21, 64)
    product = make_linear(weight, supported(precision))
    made = product(x.to(linear.DTYPES[precision])).float()
    assert made.shape == (21, 96)
    assert (made - F.linear(x, weight)).abs().max() < (1e-5 if precision == "fp32" else 0.1)


def test_what_the_cpu_cannot_multiply_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_packs", lambda dtype: dtype is torch.float32)
    check_precision("fp32", "cpu")
    check_precision("bf16", "cuda")
    for precision in ("bf16", "int8", "fp16"):
        with pytest.raises(FatalError, match=rf"^precision {precision}: this CPU \(\w+\) has .*; say fp32, or auto$"):
            check_precision(precision, "cpu")
