"""Loads a MusicGen through audiocraft, from a directory or the hub alike, and never runs code that a checkpoint holds.

Pickles are read as weights only, by every library on the way: torch is told so for the whole process.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from gary.engine.device import TORCH_TURN, is_device_fault
from gary.engine.imports import audiocraft_imports
from gary.errors import CheckpointError, DeviceError, GaryError

if TYPE_CHECKING:
    from audiocraft.models.musicgen import MusicGen


_FILES = ("state_dict.bin", "compression_state_dict.bin")


def load(checkpoint: str, device: str) -> MusicGen:
    """Loads a model to a device, ready to generate.

    Args:
        checkpoint: a directory as audiocraft exports it, or a hub repository, owner/name.
        device: "cpu" or "cuda".

    Raises:
        CheckpointError: it is missing, unreachable, malformed, or holds more than weights.
        DeviceError: the device has no room for it.
    """
    read_weights_only(os.environ)
    name = _place(checkpoint)
    with TORCH_TURN, audiocraft_imports():
        from audiocraft.models.musicgen import MusicGen

        try:
            model: MusicGen = MusicGen.get_pretrained(name, device=device)
        except Exception as error:
            raise _translated(checkpoint, error) from error
    return model


def read_weights_only(environ: MutableMapping[str, str]) -> None:
    """Makes every `torch.load` of the process refuse code, even where a caller asks for the opposite.

    Raises:
        CheckpointError: the environment asks torch to run what pickles hold.
    """
    if environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        raise CheckpointError("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set: no checkpoint is loaded until it is not")
    environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"


def _place(checkpoint: str) -> str:
    """What audiocraft is given: an absolute directory or owner/name, so that none of its short names can match.

    It would take "small" and "debug" for models of its own, a file for both halves of one, and fetch any https address.
    """
    directory = Path(checkpoint)
    if directory.is_dir():
        missing = [name for name in _FILES if not (directory / name).is_file()]
        if missing:
            raise CheckpointError(f"the checkpoint {checkpoint} has no {' and no '.join(missing)}")
        return str(directory.resolve())

    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(checkpoint)
    except HFValidationError as error:
        raise CheckpointError(f"{checkpoint} is neither a directory here nor a hub repository") from error
    if "/" not in checkpoint:
        raise CheckpointError(f"{checkpoint} is no directory here, and a hub repository is named owner/name")
    return checkpoint


def _translated(checkpoint: str, error: Exception) -> GaryError:
    """Our error for whatever came out of audiocraft, transformers, the hub's client or torch; most specific first."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if is_device_fault(error):
        return DeviceError(f"the checkpoint {checkpoint} does not get onto the device: {reason}")
    if isinstance(error, pickle.UnpicklingError):
        return CheckpointError(f"the checkpoint {checkpoint} holds more than weights, or is no checkpoint at all")
    if isinstance(error, GatedRepoError):
        return CheckpointError(f"the hub gives {checkpoint}, or a part of it, only to those who accepted its terms")
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError(f"the hub knows no repository {checkpoint}, or not a part that it names")
    if isinstance(
        error, OSError
    ):  # the hub's client: offline, unreachable, not cached; transformers: a file is missing
        return CheckpointError(f"the checkpoint {checkpoint}, or a part that it names, cannot be had: {reason}")
    return CheckpointError(f"the checkpoint {checkpoint} is malformed: {reason}")
