"""One take of a music job as it comes: the samples that are kept of its source, then what the model makes.

How long it will be is known before its first sample, so what was sent at any time is the beginning of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gary.audio import pcm
from gary.audio.clip import Samples
from gary.audio.pcm import Int16
from gary.audio.seam import Seam


@dataclass(frozen=True)
class Shape:
    """Attributes:
    length_samples: per channel, of the whole answer.
    skip_samples: of the model's rendering; the kept samples stand for them. 0 where none are kept.
    """

    rate_hz: int
    channels: int
    length_samples: int
    skip_samples: int


@dataclass(eq=False)
class Answer:
    """Args:
    kept: [N, C] what the answer begins with, bit for bit; None: it begins as the model renders the prompt.
    """

    shape: Shape
    kept: Int16 | None = None
    _seam: Seam = field(init=False)
    _parts: list[bytes] = field(init=False, default_factory=list)
    _done_samples: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._seam = Seam(self.kept, self.shape.skip_samples, self.shape.rate_hz)
        if self.kept is not None:
            self._append(self.kept)

    def push(self, samples: Samples) -> tuple[int, bytes]:
        """Takes the rendering's next stretch, [C, N].

        Returns:
            Where in the answer the new samples begin, and these as they lie in the file; none while they are skipped.
        """
        start_sample = self._done_samples
        self._append(self._seam.push(samples))
        return start_sample, self._parts[-1]

    def wav(self) -> bytes:
        """The file, once all of the answer is there."""
        shape = self.shape
        assert self._done_samples == shape.length_samples, f"{self._done_samples} samples of {shape.length_samples}"
        return pcm.header(shape.rate_hz, shape.channels, shape.length_samples) + b"".join(self._parts)

    def _append(self, integers: Int16) -> None:
        assert integers.shape[1] == self.shape.channels, integers.shape
        self._parts.append(integers.astype("<i2", copy=False).tobytes())
        self._done_samples += integers.shape[0]
