"""Packed products: a row comes out the same in any company, which is what makes batching exact."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from gary.engine import linear
from gary.engine.linear import Precision, check_precision, filled, make_linear
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


def as_in_a_file(weight: torch.Tensor, dtype: str) -> torch.Tensor:
    """A weight as a checkpoint's file has it: MusicGen's are in fp16."""
    return weight.half().float() if dtype == "fp16" else weight


@pytest.mark.parametrize("file", ["fp32", "fp16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_is_the_same_in_any_company(shape: tuple[int, int], file: str, threads: int) -> None:
    """However many rows there are, at whichever place, and however many threads share them out."""
    inputs, outputs = shape
    product = make_linear(as_in_a_file(random(outputs, inputs) / inputs**0.5, file), "fp32")
    x = random(200, inputs)
    alone = torch.cat([product(row) for row in x.split(1)])
    chance = Random(inputs + threads)
    for rows in [*range(2, 33), *chance.sample(range(33, 200), 12), 200]:
        first = chance.randrange(200 - rows + 1)
        assert torch.equal(product(x[first : first + rows]), alone[first : first + rows]), f"{rows} rows"


@pytest.mark.parametrize("file", ["fp32", "fp16"])
def test_fp32_is_every_bit_of_the_weight(file: str) -> None:
    """However it is held: fp16's numbers from the smallest to the largest, and those that fp16 does not have."""
    weight = random(192, 64)
    weight[0, :4] = torch.tensor([65504, -(2.0**-24), 2.0**-14, 0])
    if file == "fp32":
        weight[1, :3] = torch.tensor([1e9, -1e-9, 1 / 3])
    weight = as_in_a_file(weight, file)
    product = make_linear(weight, "fp32")
    assert torch.equal(product(torch.eye(64)), weight.T)


@pytest.mark.skipif(not linear._reads_halves(), reason="only CPUs with AVX2 alone hold halves")
def test_what_fp16_says_exactly_takes_half_the_memory() -> None:
    weight = as_in_a_file(random(192, 64), "fp16")
    assert make_linear(weight, "fp32").held_bytes == weight.nbytes // 2
    weight[5, 7] = 1 / 3
    assert make_linear(weight, "fp32").held_bytes == weight.nbytes


@pytest.mark.parametrize("rows", [1, 3, 7, 12])
def test_rows_that_were_filled_up_are_the_same_rows(rows: int) -> None:
    product = make_linear(as_in_a_file(random(192, 64), "fp16"), "fp32")
    x = random(rows, 64)
    more = filled(x, product.tile)
    assert more.shape[0] % product.tile == 0
    assert torch.equal(product(more)[:rows], product(x))


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
