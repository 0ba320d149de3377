"""The codes of an answer as a file, beside its WAV: what a later answer goes on from without being encoded again.

Frame `i` renders the answer's samples from `start_sample + i * frame_samples` on. The file is numpy's own (.npz), read
without pickle.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gary.errors import MediaError

CodeArray = npt.NDArray[np.int16]

# all that zipfile and numpy raise at damaged bytes
_MALFORMED = (ValueError, KeyError, OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of an answer.

    Attributes:
        codes: [K, T].
        codec_sha256: of the codec that they belong to.
        frame_samples: samples per channel of one frame.
        start_sample: of the answer, where frame 0 begins; what lies before it has no codes.
    """

    codes: CodeArray
    codec_sha256: str
    frame_samples: int
    start_sample: int

    @property
    def frames(self) -> int:
        return int(self.codes.shape[1])

    def frame_at(self, sample: int) -> int:
        """The frame that begins at a sample, or the last before it; 0 for what lies before all."""
        return min(self.frames, max(0, sample - self.start_sample) // self.frame_samples)


def codes_sha256(codes: CodeArray) -> str:
    """Of shape and values."""
    digest = hashlib.sha256("{} {} ".format(*codes.shape).encode())
    digest.update(codes.astype("<i2", order="C").tobytes())
    return digest.hexdigest()


def pack(codes: Codes) -> bytes:
    """The file; the same codes give the same bytes."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        codes=codes.codes.astype("<i2", copy=False),
        codec_sha256=np.array(codes.codec_sha256),
        grid=np.array([codes.frame_samples, codes.start_sample], "<i8"),
    )
    return file.getvalue()


def unpack(data: bytes) -> Codes:
    """Raises MediaError (code `not_codes`): the bytes are no such file, or not what one holds."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            codes, codec, grid = file["codes"], file["codec_sha256"], file["grid"]
    except _MALFORMED as error:
        raise MediaError("the file of codes cannot be read", "not_codes") from error
    right = codes.dtype == np.int16 and codes.ndim == 2 and codes.size > 0
    right = right and codec.shape == () and codec.dtype.kind == "U" and grid.shape == (2,) and grid.dtype == np.int64
    if not right or grid[0] <= 0 or grid[1] < 0:
        raise MediaError("the file of codes holds something else", "not_codes")
    return Codes(codes, str(codec), int(grid[0]), int(grid[1]))
