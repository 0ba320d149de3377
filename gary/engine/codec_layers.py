"""The layers of EnCodec's decoder as streams. This file knows tensors only: no codec, no library but torch.

Invariant: however an input is cut into pushes, the outputs joined are what the layer makes of the whole input, paddings
at the true beginning and end included. A stream holds no more of the past than its layer's kernel spans.

A layer is weights and never changes; a stream is one pass over it, and belongs to one user. Inputs and outputs are
[B, D, T], where T counts steps of that layer's own rate; any of them may be empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class Stream(Protocol):
    def push(self, x: Tensor, last: bool) -> Tensor:
        """Takes the next stretch of the input and returns what of the output is now certain.

        Args:
            x: [B, D_in, T], T >= 0.
            last: nothing comes after this; all that was held back is returned.
        """
        ...


class Layer(Protocol):
    def stream(self) -> Stream:
        """A new pass, at its beginning."""
        ...


# ---- convolution ----


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution of stride 1 whose output is as long as its input.

    Attributes:
        weight: [D_out, D_in, width].
        bias: [D_out].
        left, right: steps of padding at the beginning and at the end; together one less than the dilated kernel's span.
        reflect: pads with the mirrored input, else with zeros.
    """

    weight: Tensor
    bias: Tensor
    dilation: int
    left: int
    right: int
    reflect: bool

    def __post_init__(self) -> None:
        span = (self.weight.shape[-1] - 1) * self.dilation + 1
        assert self.left + self.right == span - 1, f"{self.left} + {self.right} steps of padding for a span of {span}"
        assert self.left >= self.right, "what is held for the kernel must do for mirroring the end too"

    def stream(self) -> Stream:
        return _ConvolutionStream(self)


class _ConvolutionStream:
    """Holds the last steps of the padded input, one less than the kernel spans."""

    def __init__(self, layer: Convolution) -> None:
        self._layer = layer
        self._held: Tensor | None = None
        self._begun = False

    def push(self, x: Tensor, last: bool) -> Tensor:
        layer = self._layer
        if self._held is not None:
            x = torch.cat([self._held, x], dim=-1)
        left = 0
        if not self._begun:
            mirrored = max(layer.left, layer.right) if layer.reflect else 0
            if x.shape[-1] <= mirrored and not last:
                self._held = x.clone()
                return _nothing(x, layer.weight.shape[0])
            left, self._begun = layer.left, True
        x = _padded(x, left, layer.right if last else 0, layer.reflect)
        overlap = layer.left + layer.right
        fresh = x.shape[-1] - overlap
        # A view would keep the whole stretch in memory.
        self._held = x[..., max(0, fresh) :].clone() if overlap and not last else None
        if fresh <= 0:
            return _nothing(x, layer.weight.shape[0])
        return functional.conv1d(x, layer.weight, layer.bias, dilation=layer.dilation)


def _padded(x: Tensor, left: int, right: int, reflect: bool) -> Tensor:
    """Pads both ends; an input too short to be mirrored is taken to go on with zeros, as both libraries have it.

    Source: `pad1d` of audiocraft's modules/conv.py, `EncodecConv1d._pad1d` of transformers.
    """
    if not left and not right:
        return x
    if not reflect:
        return functional.pad(x, (left, right))
    missing = max(0, max(left, right) + 1 - x.shape[-1])
    padded = functional.pad(functional.pad(x, (0, missing)), (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - missing]


# ---- transposed convolution ----


@dataclass(frozen=True, eq=False)
class Upsampling:
    """A transposed convolution whose output is `stride` times as long as its input.

    Attributes:
        weight: [D_in, D_out, width], width >= stride.
        bias: [D_out].
        left, right: steps cut from the output's beginning and end; together width - stride.
    """

    weight: Tensor
    bias: Tensor
    stride: int
    left: int
    right: int

    def __post_init__(self) -> None:
        overlap = self.weight.shape[-1] - self.stride
        assert self.left + self.right == overlap, f"{self.left} + {self.right} steps are cut of {overlap}"

    def stream(self) -> Stream:
        return _UpsamplingStream(self)


class _UpsamplingStream:
    """Holds the end of the output, onto which the next input's will be added; without the bias, which counts once."""

    def __init__(self, layer: Upsampling) -> None:
        self._layer = layer
        self._held: Tensor | None = None
        self._to_cut = layer.left

    def push(self, x: Tensor, last: bool) -> Tensor:
        layer = self._layer
        bias = layer.bias[:, None]
        if x.shape[-1]:
            y = functional.conv_transpose1d(x, layer.weight, layer.bias, stride=layer.stride)
            if self._held is not None:
                y[..., : self._held.shape[-1]] += self._held
        elif self._held is not None:
            y = self._held + bias
        else:
            return _nothing(x, layer.weight.shape[1])
        certain = y.shape[-1] - layer.right if last else x.shape[-1] * layer.stride
        self._held = None if last else y[..., certain:] - bias
        begin = min(self._to_cut, certain)
        self._to_cut -= begin
        return y[..., begin:certain]


# ---- the others ----


@dataclass(frozen=True, eq=False)
class Recurrence:
    """An LSTM that runs forward, with its input added to its output if `skip`."""

    lstm: nn.LSTM
    skip: bool

    def stream(self) -> Stream:
        return _RecurrenceStream(self)


class _RecurrenceStream:
    """Holds the LSTM's state."""

    def __init__(self, layer: Recurrence) -> None:
        self._layer = layer
        self._state: tuple[Tensor, Tensor] | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        if not x.shape[-1]:
            return x
        steps = x.permute(2, 0, 1)  # [T, B, D]
        y: Tensor
        y, self._state = self._layer.lstm(steps, self._state)
        if self._layer.skip:
            y = y + steps
        return y.permute(1, 2, 0)


@dataclass(frozen=True, eq=False)
class Pointwise:
    """A function of each number alone."""

    function: Callable[[Tensor], Tensor]

    def stream(self) -> Stream:
        return self

    def push(self, x: Tensor, last: bool) -> Tensor:
        return self.function(x)


@dataclass(frozen=True, eq=False)
class Residual:
    """The sum of a branch and a shortcut, which is never later than the branch."""

    shortcut: Layer
    branch: Layer

    def stream(self) -> Stream:
        return _ResidualStream(self)


class _ResidualStream:
    """Holds what the shortcut is ahead of the branch."""

    def __init__(self, layer: Residual) -> None:
        self._shortcut = layer.shortcut.stream()
        self._branch = layer.branch.stream()
        self._ahead: Tensor | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        skipped = self._shortcut.push(x, last)
        y = self._branch.push(x, last)
        if self._ahead is not None:
            skipped = torch.cat([self._ahead, skipped], dim=-1)
        certain = y.shape[-1]
        assert certain <= skipped.shape[-1], "the shortcut is later than the branch"
        self._ahead = skipped[..., certain:].clone() if certain < skipped.shape[-1] else None
        return skipped[..., :certain] + y


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers one after the other."""

    layers: Sequence[Layer]

    def stream(self) -> Stream:
        return _ChainStream(self)


class _ChainStream:
    def __init__(self, layer: Chain) -> None:
        self._streams = [layer.stream() for layer in layer.layers]

    def push(self, x: Tensor, last: bool) -> Tensor:
        for stream in self._streams:
            x = stream.push(x, last)
        return x


def _nothing(like: Tensor, width: int) -> Tensor:
    """[B, width, 0], on the device of `like`."""
    return like.new_empty(like.shape[0], width, 0)
