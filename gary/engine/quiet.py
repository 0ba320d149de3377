"""What audiocraft's dependencies say at import and at loading, and we know already. Anything else is still heard."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# xformers' compiled kernels are built for another torch; audiocraft uses torch's own attention, so none is missed.
_XFORMERS_KERNELS = "WARNING[XFORMERS]: xFormers can't load C++/CUDA extensions"


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_XFORMERS_KERNELS)


@contextmanager
def known_noise_silenced() -> Iterator[None]:
    """Wraps the import of audiocraft and the building of its models."""
    xformers = logging.getLogger("xformers")
    xformers.addFilter(_is_news)
    try:
        with warnings.catch_warnings():
            # audiocraft's convolutions use the older of torch's two weight norms; its checkpoints are named after it.
            warnings.filterwarnings("ignore", message=r"`torch\.nn\.utils\.weight_norm` is deprecated")
            yield
    finally:
        xformers.removeFilter(_is_news)
