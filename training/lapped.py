"""The codec's beginning: SEANet's convolutions as a cascade of lapped transforms, with a rotation at the end.

A convolution whose kernel is twice its stride can be an MDCT, and the transposed one its inverse (Princen & Bradley
1986: time-domain aliasing cancels). Four of them, one inside the other, turn 640 samples into 640 numbers a frame, and
back again without loss; of these the principal components are kept. So encoder and decoder know the phase of all they
hear before any training, and a frame's latent depends on little more than two frames of sound.

ELU is nearly the identity on small numbers, so what flows inside is small. Channels and residual branches that the
transform has no use for keep their random weights, and nothing reads them until training finds a use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

STRIDES = (4, 4, 5, 8)  # of the encoder, outermost first
FRAME = math.prod(STRIDES)
_INSIDE_ENCODER = 0.01  # what flows in the encoder, beside what it hears: ELU bends it by half of that
_INSIDE_DECODER = 0.1  # larger, since the decoder is trained on


@dataclass(frozen=True, eq=False)
class Rotation:
    """What of the 640 numbers of a frame becomes its latent.

    Attributes:
        into: [D, 640], coefficients to latent; on the CPU, as `back`, where the kernels are put together.
        back: [640, D], latent to coefficients.
        kept: share of the weighted variance that D numbers hold.
    """

    into: Tensor
    back: Tensor
    kept: float


def mdct(stride: int) -> Tensor:
    """The transform with a sine window, [stride, 2 * stride], orthonormal where its frames overlap by half."""
    n = torch.arange(2 * stride, dtype=torch.float64) + 0.5
    k = torch.arange(stride, dtype=torch.float64)[:, None] + 0.5
    window = torch.sin(math.pi * n / (2 * stride))
    return (window * math.sqrt(2 / stride) * torch.cos(math.pi / stride * (n + stride / 2) * k)).float()


def coefficients(wave: Tensor) -> Tensor:
    """What the cascade makes of sound: [B, 1, N] to [B, 640, T]."""
    for stride in STRIDES:
        channels = wave.shape[1]
        padded = functional.pad(wave, (stride - stride // 2, stride // 2), mode="reflect")  # as audiocraft's pads
        kernel = mdct(stride).to(wave)[:, None].repeat(channels, 1, 1)  # [channels * stride, 1, 2 * stride]
        wave = functional.conv1d(padded, kernel, stride=stride, groups=channels)
    return wave


def fit_rotation(heard: Tensor, dimensions: int, flattening: float) -> Rotation:
    """The principal components of frames [P, 640], quiet coefficients counted for more.

    Args:
        flattening: 0 weighs all as they are; at 1 each coefficient counts the same, however quiet it usually is.
    """
    moments = heard.double().T @ heard.double() / len(heard)
    weights = (moments.diagonal().sqrt() + 1e-3 * moments.diagonal().max().sqrt()) ** -flattening
    weights = weights / weights.max()
    values, vectors = torch.linalg.eigh(weights[:, None] * moments * weights)
    chosen = vectors[:, -dimensions:].flip(1)  # [640, D], the largest first
    kept = float(values[-dimensions:].sum() / values.sum())
    return Rotation((chosen.T * weights).float().cpu(), (chosen / weights[:, None]).float().cpu(), kept)


@torch.no_grad()
def settle(codec: Any, rotation: Rotation) -> None:
    """Makes an untrained codec the cascade and its inverse."""
    _settle_encoder(codec.encoder.model, rotation)
    _settle_decoder(codec.decoder.model, rotation)


def _settle_encoder(layers: Any, rotation: Rotation) -> None:
    convolutions = [layer.conv.conv for layer in layers if hasattr(layer, "conv")]
    _silence_branches(layers)
    first, *down, last = convolutions
    _write(first, _centre(first, torch.full((1, 1), _INSIDE_ENCODER)))
    channels = 1
    for convolution, stride in zip(down, STRIDES, strict=True):
        kernel = _nested(channels, stride)  # [channels * stride, channels, 2 * stride]
        if stride == STRIDES[-1]:
            kernel = torch.einsum("dj,jcn->dcn", rotation.into, kernel)
        _write(convolution, kernel)
        channels *= stride
    _write(last, _centre(last, torch.eye(len(rotation.into)) / _INSIDE_ENCODER))


def _settle_decoder(layers: Any, rotation: Rotation) -> None:
    _silence_branches(layers)
    first = layers[0].conv.conv
    up = [layer.convtr.convtr for layer in layers if hasattr(layer, "convtr")]
    last = layers[-1].conv.conv
    _write(first, _centre(first, torch.eye(len(rotation.into)) * _INSIDE_DECODER))
    channels = FRAME
    for convolution, stride in zip(up, reversed(STRIDES), strict=True):
        channels //= stride
        kernel = _nested(channels, stride)  # [channels * stride, channels, 2 * stride]
        if stride == STRIDES[-1]:
            kernel = torch.einsum("jd,jcn->dcn", rotation.back, kernel)
        _write(convolution, kernel)
    _write(last, _centre(last, torch.full((1, 1), 1 / _INSIDE_DECODER)))


def _nested(channels: int, stride: int) -> Tensor:
    """One transform for each channel: [channels * stride, channels, 2 * stride]."""
    return torch.einsum("cd,kn->ckdn", torch.eye(channels), mdct(stride)).flatten(0, 1)


def _centre(convolution: Any, matrix: Tensor) -> Tensor:
    """A kernel that looks at the present step alone: [D_out, D_in, width] of [D_out, D_in]."""
    width = convolution.weight_v.shape[-1]
    kernel = torch.zeros(*matrix.shape, width)
    kernel[..., width // 2] = matrix
    return kernel


def _write(convolution: Any, kernel: Tensor) -> None:
    """Puts a kernel into the first rows and columns of a weight-normed convolution, plain or transposed.

    What it writes into reads nothing else, and nothing else is written into what it writes to.
    """
    direction, size = convolution.weight_v, convolution.weight_g
    rows, columns = kernel.shape[:2]
    convolution.bias.zero_()
    if isinstance(convolution, torch.nn.ConvTranspose1d):  # [D_in, D_out, width]: other inputs are not heard
        size[rows:] = 0
    direction[:rows] = 0
    direction[:rows, :columns] = kernel
    size[:rows] = direction[:rows].flatten(1).norm(dim=1)[:, None, None]
    if not isinstance(convolution, torch.nn.ConvTranspose1d):
        size[rows:] *= 0.1  # other outputs hear something, and wait to be heard


def _silence_branches(layers: Any) -> None:
    for layer in layers:
        if hasattr(layer, "block"):
            layer.block[-1].conv.conv.weight_g.zero_()
            layer.block[-1].conv.conv.bias.zero_()
