"""Matrix products with constant weights, in the precision that the config names. The only file that knows packing.

Decoding reads every weight once a step and does little with it: time is memory traffic, and fewer bytes are fewer
milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  the name that everybody knows it by

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Linear = Callable[[torch.Tensor], torch.Tensor]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.bfloat16,  # of the activations
}


_INT8_ROWS_MAX = 3  # a guided request has two
_NARROW = 512  # inputs; below it the other kernel is taken up to 15 rows


def default_precision(device: str) -> Precision:
    """bf16 where the device multiplies it in hardware: on the GPU, and on CPUs with AMX or AVX512-bf16."""
    if device != "cpu":
        return "fp16"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"


def make_linear(weight: torch.Tensor, precision: Precision) -> Linear:
    """x [N, in] -> x @ weight.T [N, out], the weight held in the layout that is read fastest.

    Args:
        weight: [out, in]; not kept where a packed copy takes its place.
    """
    if precision == "int8":
        return _int8(weight)
    cast = weight.detach().to(DTYPES[precision])
    if cast.device.type == "cpu":
        return _packed(cast)
    return lambda x: F.linear(x, cast)


def _packed(weight: torch.Tensor) -> Linear:
    """oneDNN's own blocked layout, made once; torch reorders at every call otherwise. Also for fp32: 5 to 10 times as
    fast as torch's own product on a CPU that MKL is not made for.

    A row of the product is the same bit for bit however many rows there are, which makes a request in a batch equal to
    itself alone. oneDNN takes another kernel for very few rows, so these are filled up with zeros.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    rows_min = 2 if weight.shape[1] >= _NARROW else 16

    def linear(x: torch.Tensor) -> torch.Tensor:
        """[N, in] -> [N, out]"""
        rows = x.shape[0]
        if rows < rows_min:
            x = F.pad(x, (0, 0, 0, rows_min - rows))
        made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
        return made[:rows]

    return linear


def _int8(weight: torch.Tensor) -> Linear:
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
