"""Names what makes the samples: a model's weights by their content, and the version of the arithmetic.

A digest is of values, whatever file, library or device they came through: two checkpoints that hold one codec, or name
it, show one digest, and a model that a GPU holds in fp16 shows that of the same values in fp32.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gary.errors import CheckpointError

if TYPE_CHECKING:
    from audiocraft.models.lm import LMModel

# To be raised whenever the same request, with the same seed on the same model and machine, may give other samples: the
# order of sums, the noise, the sampler, how a prompt is cut, resampled or encoded.
ENGINE_VERSION = "gary-3"


def engine_version(prefill_chunk: int) -> str:
    """Ours, torch's, whose kernels round in their own way, and where prompts are cut, which decides their shapes."""
    return f"{ENGINE_VERSION}, torch {torch.__version__}, prefill by {prefill_chunk}"


def checkpoint_sha256(lm: LMModel) -> str:
    """Digest of a language model and its text encoder, by name.

    Raises:
        CheckpointError: descriptions are not read by a T5, as MusicGen's are.
    """
    named: dict[str, Tensor] = dict(lm.state_dict())
    conditioners: Any = lm.condition_provider.conditioners
    if "description" not in conditioners or not hasattr(conditioners["description"], "t5"):
        raise CheckpointError("the checkpoint's descriptions are not read by a T5")
    # audiocraft keeps a frozen text encoder out of the state, but not out of the music.
    named |= {f"t5.{name}": tensor for name, tensor in conditioners["description"].t5.state_dict().items()}
    return _joined(f"{name} {digest}" for name, digest in sorted(_digests(named).items()))


def unnamed_sha256(tensors: Iterable[Tensor]) -> str:
    """Digest of tensors without their names and order: the two libraries that hold EnCodec agree on neither."""
    return _joined(sorted(_digests({str(index): tensor for index, tensor in enumerate(tensors)}).values()))


def codec_sha256(network_sha256: str, sides: int) -> str:
    """Digest of a codec, from that of its network's weights and how many of it stand side by side."""
    return _joined([network_sha256, f"sides {sides}"])


def _digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """By name. hashlib lets other threads run, so a model is read by all cores: 1.8 GB/s on each of a shared EPYC."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return dict(zip(tensors, threads.map(_digest, tensors.values()), strict=True))


def _digest(tensor: Tensor) -> str:
    """Of a tensor's shape and values."""
    kept = tensor.detach()
    kept = kept.to("cpu", torch.float32 if kept.is_floating_point() else kept.dtype).contiguous()
    digest = hashlib.sha256(f"{kept.dtype} {tuple(kept.shape)}\n".encode())
    digest.update(kept.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _joined(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
