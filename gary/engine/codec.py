"""EnCodec: audio to codes, and codes to audio as they come, exactly as if decoded in one piece.

Either class of codec becomes the same plain layers (`codec_layers.py`): audiocraft's own, and transformers', which
audiocraft wraps. A stereo codec is a mono one used twice, its codebooks interleaved. All of it runs in fp32, without
autograd. What a codec is not needed for (the library's own decoder) is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gary.audio.clip import Samples
from gary.engine.card import codec_sha256, unnamed_sha256
from gary.engine.codec_layers import Chain, Convolution, Layer, Pointwise, Recurrence, Residual, Upsampling
from gary.errors import CheckpointError

_PIECE_FRAMES = 50  # frames decoded at once: bounds the memory, however much is pushed


@dataclass(frozen=True, eq=False)
class _Network:
    """A codec's parts, whichever library they are from.

    Attributes:
        encode: [B, C, N] -> [B, K, T] int64.
        codebooks: [K, card, D].
        decoder: [B, D, T] -> [B, C, N].
        sha256: of the weights of both halves, as they were trained, and the codebooks.
        frame_samples: samples that the decoder makes of one frame, and channel.
    """

    encode: Callable[[Tensor], Tensor]
    codebooks: Tensor
    decoder: Chain
    frame_samples: int
    sha256: str


class Codec:
    """A loaded codec. Make one with `of`; any number of streaming decoders may share it, in any threads.

    Attributes:
        sample_rate_hz: samples per second and channel.
        channels: C.
        frame_samples: samples per frame and channel.
        codebooks: K; for stereo those of both sides.
        codebook_size: codes run from 0 to below this.
        sha256: of its weights; codes of one codec mean the same to every other of this digest.
    """

    def __init__(self, network: _Network, device: torch.device, sample_rate_hz: int, channels: int, sides: int) -> None:
        self._network = network
        self._device = device
        self._sides = sides  # networks side by side: 2 for interleaved stereo
        self.sample_rate_hz = sample_rate_hz
        self.channels = channels
        self.frame_samples = network.frame_samples
        self.codebooks = network.codebooks.shape[0] * sides
        self.codebook_size = network.codebooks.shape[1]
        self.sha256 = codec_sha256(network.sha256, sides)

    @classmethod
    def of(cls, compression_model: Any, device: str) -> Codec:
        """Takes over a compression model that audiocraft has loaded, and moves it to a device.

        Args:
            compression_model: audiocraft's `EncodecModel` or `HFEncodecCompressionModel`, or one of these in
                `InterleaveStereoCompressionModel`.
            device: "cpu" or "cuda". For "cuda", cuDNN's TF32 is turned off in this process: it would cost exactness.

        Raises:
            CheckpointError: a codec of a kind that MusicGen does not use, or that cannot be streamed exactly.
        """
        from audiocraft.models.encodec import InterleaveStereoCompressionModel

        stereo = isinstance(compression_model, InterleaveStereoCompressionModel)
        if stereo and compression_model.per_timestep:
            raise CheckpointError("the codec interleaves its channels in time; only interleaved codebooks are served")
        place = torch.device(device)
        if place.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False
        model = compression_model.to(device=place, dtype=torch.float32).eval()
        with torch.no_grad():
            network = _network(model.model if stereo else model)
        return cls(network, place, int(model.sample_rate), int(model.channels), 2 if stereo else 1)

    @property
    def frame_rate_hz(self) -> float:
        return self.sample_rate_hz / self.frame_samples

    @torch.no_grad()
    def encode(self, samples: Tensor | Samples) -> Tensor:
        """Codes of a whole clip.

        Args:
            samples: [C, N] float32 at the codec's rate, N >= 1.

        Returns:
            [K, T] int64 on the codec's device, T = N / frame_samples, rounded up.
        """
        assert samples.ndim == 2, f"samples are [C, N], not {tuple(samples.shape)}"
        assert samples.shape[0] == self.channels, f"{samples.shape[0]} channels for a codec of {self.channels}"
        wave = torch.tensor(samples) if isinstance(samples, np.ndarray) else samples  # a copy: arrays may be read-only
        assert wave.dtype == torch.float32, f"samples are float32, not {wave.dtype}"
        # One side after the other, as audiocraft does: a batch of two may round differently, and so choose other codes.
        sides = wave.to(self._device).chunk(self._sides)
        codes = [self._network.encode(side[None])[0] for side in sides]  # each [K / sides, T]
        return torch.stack(codes, dim=1).flatten(0, 1)

    def streaming_decoder(self) -> StreamingDecoder:
        """A decoder for one stream of codes, at its beginning."""
        return StreamingDecoder(self._network, self._sides, self._device)


class StreamingDecoder:
    """Decodes one stream of codes, in stretches of any length. It is used by one thread at a time."""

    def __init__(self, network: _Network, sides: int, device: torch.device) -> None:
        self._codebooks = network.codebooks
        self._books = network.codebooks.shape[0]
        self._sides = sides
        self._device = device
        self._stream = network.decoder.stream()
        self._finished = False

    @torch.inference_mode()
    def push(self, codes: Tensor) -> Samples:
        """Takes the next frames; returns the samples that are now certain, some 4 frames behind.

        Args:
            codes: [K, T] int64, T >= 0, each from 0 to below the codebook's size.

        Returns:
            [C, N] float32; N may be 0.
        """
        assert not self._finished, "frames after the end"
        books = codes.shape[0]
        assert books == self._books * self._sides, f"codes are [{self._books * self._sides}, T], not [{books}, T]"
        pieces = torch.split(codes.to(self._device), _PIECE_FRAMES, dim=1)
        return np.concatenate([self._decode(piece, last=False) for piece in pieces], axis=1)

    @torch.inference_mode()
    def finish(self) -> Samples:
        """Ends the stream; returns its last samples, [C, N] float32: in all, `frame_samples` for each frame."""
        assert not self._finished, "a stream ends once"
        self._finished = True
        none = torch.empty(self._books * self._sides, 0, dtype=torch.int64, device=self._device)  # [K, 0]
        return self._decode(none, last=True)

    def _decode(self, codes: Tensor, last: bool) -> Samples:
        sides = codes.reshape(self._books, self._sides, codes.shape[1]).transpose(0, 1)  # [B, K / B, T], a side a row
        latents = torch.zeros((), device=self._device)
        for book in range(self._books):
            latents = latents + nn.functional.embedding(sides[:, book], self._codebooks[book])  # [B, T, D]
        sound = self._stream.push(latents.transpose(1, 2), last)  # [B, C / B, N]
        samples: Samples = sound.flatten(0, 1).cpu().numpy()
        return samples


# ---- from the libraries' classes to ours ----


def _network(model: Any) -> _Network:
    from audiocraft.models.encodec import EncodecModel, HFEncodecCompressionModel

    if isinstance(model, EncodecModel):
        return _audiocraft_network(model)
    if isinstance(model, HFEncodecCompressionModel):
        return _transformers_network(model)
    raise CheckpointError(f"the codec is a {type(model).__name__}; only EnCodec is served")


def _audiocraft_network(model: Any) -> _Network:
    from audiocraft.quantization.vq import ResidualVectorQuantizer

    encoder, quantizer = model.encoder, model.quantizer
    if model.renormalize:
        raise CheckpointError("the codec scales each clip to its loudness, which a stream cannot know")
    if not isinstance(quantizer, ResidualVectorQuantizer):
        raise CheckpointError(f"the codec's quantizer is a {type(quantizer).__name__}, not residual")
    books: Any = quantizer.vq.layers[: model.num_codebooks]
    if not all(isinstance(book.project_out, nn.Identity) for book in books):
        raise CheckpointError("the codec projects its codebooks, which no MusicGen does")

    def encode(wave: Tensor) -> Tensor:
        codes: Tensor = quantizer.encode(encoder(wave))
        return codes

    codebooks = torch.stack([book.codebook.detach() for book in books])
    return _assembled(encode, codebooks, model.decoder.model, [encoder, model.decoder])


def _transformers_network(model: Any) -> _Network:
    encodec = model.model
    encoder, config = encodec.encoder, encodec.config
    if config.normalize or config.chunk_length_s is not None:
        raise CheckpointError("the codec works in chunks, or scales each clip to its loudness, which a stream cannot")
    bandwidth_kbps = config.target_bandwidths[model.possible_num_codebooks.index(model.num_codebooks)]
    quantize = partial(encodec.quantizer.encode, bandwidth=bandwidth_kbps)

    def encode(wave: Tensor) -> Tensor:
        codes: Tensor = quantize(encoder(wave))  # [K, B, T]
        return codes.transpose(0, 1)

    books = encodec.quantizer.layers[: model.num_codebooks]
    codebooks = torch.stack([book.codebook.embed.detach() for book in books])
    return _assembled(encode, codebooks, encodec.decoder.layers, [encoder, encodec.decoder])


def _assembled(
    encode: Callable[[Tensor], Tensor], codebooks: Tensor, decoder: Iterable[Any], halves: Iterable[nn.Module]
) -> _Network:
    chain = _chain(decoder)
    frame_samples = math.prod(layer.stride for layer in chain.layers if isinstance(layer, Upsampling))
    weights = [weight for half in halves for weight in half.parameters()]
    return _Network(encode, codebooks, chain, frame_samples, unnamed_sha256([*weights, codebooks]))


def _chain(modules: Iterable[Any]) -> Chain:
    return Chain([_layer(module) for module in modules])


def _layer(module: Any) -> Layer:
    """Our layer for a module of either library.

    Raises:
        CheckpointError: a module that EnCodec's decoder does not have.
    """
    from audiocraft.modules import conv, lstm, seanet
    from transformers.models.encodec import modeling_encodec as hub

    match module:
        case conv.StreamableConv1d():
            layer: Layer = _convolution(module, module.conv.norm_type, module.conv.conv)
        case hub.EncodecConv1d():
            layer = _convolution(module, module.norm_type, module.conv)
        case conv.StreamableConvTranspose1d():
            layer = _upsampling(module, module.convtr.norm_type, module.convtr.convtr)
        case hub.EncodecConvTranspose1d():
            layer = _upsampling(module, module.norm_type, module.conv)
        case lstm.StreamableLSTM():
            layer = Recurrence(module.lstm, module.skip)
        case hub.EncodecLSTM():
            layer = Recurrence(module.lstm, skip=True)
        case seanet.SEANetResnetBlock() | hub.EncodecResnetBlock():
            layer = Residual(_layer(module.shortcut), _chain(module.block))
        case nn.ELU() | nn.Tanh() | nn.Identity():
            layer = Pointwise(module)
        case _:
            raise CheckpointError(f"the codec's decoder holds a {type(module).__name__}, which EnCodec has not")
    return layer


def _convolution(module: Any, norm: str, inner: nn.Conv1d) -> Convolution:
    """Padding is asymmetric where it is odd; a causal codec has all of it at the beginning."""
    assert inner.stride == (1,), "a decoder does not go down in rate"
    assert inner.bias is not None
    if module.pad_mode not in ("reflect", "constant"):
        raise CheckpointError(f"the codec pads by {module.pad_mode!r}; only reflect and constant are known")
    padding = (inner.kernel_size[0] - 1) * inner.dilation[0]
    right = 0 if module.causal else padding // 2
    return Convolution(
        weight=_folded_weight(norm, inner),
        bias=inner.bias.detach(),
        dilation=inner.dilation[0],
        left=padding - right,
        right=right,
        reflect=module.pad_mode == "reflect",
    )


def _upsampling(module: Any, norm: str, inner: nn.ConvTranspose1d) -> Upsampling:
    assert inner.bias is not None
    stride = inner.stride[0]
    cut = inner.kernel_size[0] - stride
    right = math.ceil(cut * module.trim_right_ratio) if module.causal else cut // 2
    return Upsampling(_folded_weight(norm, inner), inner.bias.detach(), stride, left=cut - right, right=right)


def _folded_weight(norm: str, inner: Any) -> Tensor:
    """The weight that a convolution works with, its normalisation applied once and for all.

    audiocraft uses torch's older weight norm, which leaves `weight` out of date until the next pass; transformers uses
    the newer one, whose `weight` is always right.

    Raises:
        CheckpointError: a normalisation that looks at the signal, or that is not known.
    """
    if norm not in ("none", "weight_norm"):
        raise CheckpointError(f"the codec is normalised by {norm!r}, which cannot be streamed")
    if hasattr(inner, "weight_g"):
        length: Tensor = inner.weight_g.detach()  # [D, 1, 1]
        direction: Tensor = inner.weight_v.detach()  # [D, D', width]
        weight: Tensor = direction * (length / torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True))
    else:
        weight = inner.weight.detach()
    return weight
