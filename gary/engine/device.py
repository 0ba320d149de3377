"""The device under a model: which one, when it counts as failed, and whose turn it is. It knows no model."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gary.config import EngineConfig
from gary.errors import DeviceError

# A process has one default generator per device, and audiocraft draws from no other, be it tokens or the first weights
# of a model under construction. Whoever seeds or draws holds this, or equal seeds would not make equal samples.
TORCH_TURN = threading.Lock()

# Torch raises plain RuntimeErrors for the libraries beneath it; what they name is the device's state, not the request.
_DEVICE_FAULT = re.compile(r"CUDA (driver )?error|CUBLAS_STATUS_|CUDNN_STATUS_|NCCL error")


def pick_device(config: EngineConfig) -> str:
    """The device that a model of this process runs on: "cuda" or "cpu".

    Raises:
        DeviceError: "cuda" is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise DeviceError("the configuration asks for cuda, and torch sees no such device here")
    if config.device == "auto":
        return "cuda" if available else "cpu"
    return config.device


def settle_arithmetic() -> None:
    """Makes products on a GPU what their types say, for the whole process; the CPU takes no notice.

    TF32 keeps 10 bits of 23: fp32 tokens would not be audiocraft's, nor streamed audio the whole decode's within 1e-5
    (cuDNN's convolutions use it unless told otherwise). Sums of fp16 and bf16 products are kept in fp32.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def is_device_fault(error: BaseException) -> bool:
    """Whether an error says that the device failed or ran out of memory, rather than that a request was bad."""
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and _DEVICE_FAULT.search(str(error)) is not None


@contextmanager
def device_faults_translated() -> Iterator[None]:
    """Turns torch's errors about the device into DeviceError; all others pass as they are."""
    try:
        yield
    except RuntimeError as error:
        if not is_device_fault(error):
            raise
        raise DeviceError(f"the model's device failed: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
