"""Matrix products with constant weights, in the precision that the config names. The only file that knows packing.

Decoding reads every weight once a step and does little with it: time is memory traffic, and fewer bytes are fewer
milliseconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  the name that everybody knows it by

from gary.errors import FatalError

Precision = Literal["fp32", "bf16", "fp16", "int8"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.bfloat16,  # of the activations
}

Product = Callable[[torch.Tensor], torch.Tensor]
_INT8_ROWS_MAX = 3  # a guided request has two
_NARROW = 512  # inputs; below it the other kernel is taken up to 15 rows
_TILE = 6  # rows of oneDNN's kernel for AVX2
_TILED_ROWS_MAX = 144
_FEW = 192  # outputs
_HALVES_TILE = 3  # rows


@dataclass(frozen=True)
class Linear:
    """x [N, in] -> x @ weight.T [N, out].

    Attributes:
        held_bytes: of the weight, in all its copies.
        tile: rows are multiplied in multiples of so many; who brings fewer has them filled up, at every product.
    """

    product: Product
    held_bytes: int
    tile: int = 1

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(x)


def default_precision(device: str) -> Precision:
    """bf16 where the device multiplies it in hardware: on the GPU, and on CPUs with AMX or AVX512-bf16."""
    if device != "cpu":
        return "fp16"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"


def check_precision(precision: Precision, device: str) -> None:
    """Refuses what this machine has no instructions for.

    Raises:
        FatalError: the CPU cannot multiply it.
    """
    if device == "cpu" and not _packs(DTYPES[precision]):
        here = torch.backends.cpu.get_cpu_capability()
        raise FatalError(f"precision {precision}: this CPU ({here}) has no instructions for it; say fp32, or auto")


@functools.cache
def _packs(dtype: torch.dtype) -> bool:
    """Whether torch's packed product takes it on this CPU, as it says itself."""
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(16, 16, dtype=dtype), None)
    except RuntimeError:
        return False
    return True


def make_linear(weight: torch.Tensor, precision: Precision) -> Linear:
    """A product with `weight`, held in the layout that is read fastest.

    Args:
        weight: [out, in]; not kept where a packed copy takes its place.
    """
    if precision == "int8":
        return Linear(_int8(weight), 3 * weight.numel())
    cast = weight.detach().to(DTYPES[precision])
    if cast.device.type != "cpu":
        return Linear(lambda x: F.linear(x, cast), cast.nbytes)
    if precision == "fp32" and _reads_halves() and _are_halves(cast):
        return Linear(_halved(cast), cast.nbytes // 2, _HALVES_TILE)
    return Linear(_packed(cast), cast.nbytes, 1 if _has_avx512() else _TILE)


def filled(x: torch.Tensor, tile: int) -> torch.Tensor:
    """[N, in] with zeros below, up to the next multiple of `tile` rows."""
    return _at_least(x, x.shape[0] + -x.shape[0] % tile)


def _reads_halves() -> bool:
    """With AVX2 alone, where models are served in fp32. FBGEMM's kernels for AVX512 have another rule of rows."""
    avx2_alone: bool = torch.cpu._is_avx2_supported() and not _has_avx512()
    return avx2_alone and "fbgemm" in torch.backends.quantized.supported_engines


def _are_halves(weight: torch.Tensor) -> bool:
    """Whether fp16 says each of these fp32 numbers exactly, as it does where a checkpoint's file is in fp16."""
    return torch.equal(weight.half().float(), weight)


def _halved(weight: torch.Tensor) -> Product:
    """The product in fp32 by weights held in fp16 (FBGEMM's): no bit of them is lost, and half the bytes are read.

    A step's products took a quarter to a third of oneDNN's time, 300 rows three quarters. A row is the same bit for bit
    in any company but where one or two rows are left over, which have kernels of their own: a multiple of three leaves
    none, on any number of threads.
    """
    packed = torch.ops.quantized.linear_prepack_fp16(weight, None)

    def linear(x: torch.Tensor) -> torch.Tensor:
        """[N, in] -> [N, out]"""
        made: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(filled(x, _HALVES_TILE), packed)
        return made[: x.shape[0]]

    return linear


def _packed(weight: torch.Tensor) -> Product:
    """oneDNN's own blocked layout, made once; torch reorders at every call otherwise. Also for fp32: 5 to 10 times as
    fast as torch's own product on a CPU that MKL is not made for.

    A row of the product is the same bit for bit however many rows there are, which makes a request in a batch equal to
    itself alone. oneDNN takes another kernel for some numbers of rows, so these are filled up with zeros.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    outputs, inputs = weight.shape

    def product(x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
        return made

    def linear(x: torch.Tensor) -> torch.Tensor:
        """[N, in] -> [N, out]"""
        if _has_avx512():  # only very few rows have a kernel of their own
            return product(_at_least(x, 2 if inputs >= _NARROW else 16))[: x.shape[0]]
        return _in_tiles(product, x, outputs)

    return linear


def _in_tiles(product: Product, x: torch.Tensor, outputs: int) -> torch.Tensor:
    """With AVX2 alone a kernel takes 6 rows; a rest of 3 or fewer has others, which sum in another order.

    Such a rest may also come of sharing out the rows among threads: two share a multiple of 12 evenly, more of them get
    12 at a time. And threads that find few outputs share out the inputs, in parts that depend on the rows. All this is
    measured, and tests/unit/test_linear.py measures it again.
    """
    rows = x.shape[0]
    few_threads = torch.get_num_threads() <= 2
    if rows <= _TILE and few_threads and outputs >= _FEW:
        return product(_at_least(x, _TILE))[:rows]
    at_once = _TILED_ROWS_MAX if few_threads else 2 * _TILE
    x = filled(x, 2 * _TILE)
    if x.shape[0] <= at_once:
        return product(x)[:rows]
    return torch.cat([product(part) for part in x.split(at_once)])[:rows]


def _at_least(x: torch.Tensor, rows: int) -> torch.Tensor:
    """At least so many rows: those of `x`, and zeros below."""
    return F.pad(x, (0, 0, 0, rows - x.shape[0])) if x.shape[0] < rows else x


@functools.cache
def _has_avx512() -> bool:
    """As oneDNN and FBGEMM look, which do not ask how torch's own kernels were told to run."""
    supported: bool = torch.cpu._is_avx512_supported()
    return supported


def _int8(weight: torch.Tensor) -> Product:
    """Weights of one byte with a scale for each output, activations in bf16.

    That kernel reads half of what bf16 does and is slow for more than a few rows (1,792 us at 64 rows, bf16 642). So
    the same rounded weights are held in bf16 as well, for prefill and for batches: speed is what int8 is chosen for.
    """
    scales = (weight.detach().float().abs().amax(dim=1) / 127).clamp_min(1e-12)  # [out]
    integers = (weight.detach().float() / scales[:, None]).round().to(torch.int8).contiguous()  # [out, in]
    scales = scales.to(torch.bfloat16)
    for_many_rows = _packed(integers.to(torch.bfloat16) * scales[:, None])

    def linear(x: torch.Tensor) -> torch.Tensor:
        """[N, in] -> [N, out]"""
        if x.shape[0] > _INT8_ROWS_MAX:
            return for_many_rows(x)
        made: torch.Tensor = torch._weight_int8pack_mm(x, integers, scales)
        return made

    return linear
