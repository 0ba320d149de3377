"""How audiocraft is imported here: without what only its trainers and its other models use, and without known noise."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from gary.engine.deferred import deferred

# Most of the time that `import audiocraft` takes, and nothing that loads a MusicGen uses any of it. A benchmark of
# audiocraft itself does use xformers, and a melody model the chroma: they get them then.
_FOR_OTHERS = (
    "audiocraft.models.multibanddiffusion",  # brings audiocraft's trainers, and their metrics
    "audiocraft.modules.chroma",  # brings librosa's filters, compiled by numba
    "av",
    "dora",  # launches trainings
    "scipy.optimize",  # for losses of transformers' models of pictures
    "spacy",
    "torch._dynamo",
    "torch.distributed.tensor",
    "transformers.generation.candidate_generator",  # brings scikit-learn
    "transformers.integrations.tensor_parallel",
    "xformers",
)
# What they mark is for torch.compile, which nothing here calls.
_MARKS = ("torch._dynamo.allow_in_graph", "torch._dynamo.disable")
# xformers' compiled kernels are built for another torch; audiocraft uses torch's own attention, so none is missed.
_XFORMERS_KERNELS = "WARNING[XFORMERS]: xFormers can't load C++/CUDA extensions"


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_XFORMERS_KERNELS)


@contextmanager
def audiocraft_imports() -> Iterator[None]:
    """Wraps the import of audiocraft and the building of its models."""
    with known_noise_silenced(), deferred(_FOR_OTHERS, without=_MARKS):
        yield


@contextmanager
def known_noise_silenced() -> Iterator[None]:
    """Of audiocraft and all that it imports, what we know already. Anything else is still heard."""
    xformers = logging.getLogger("xformers")
    xformers.addFilter(_is_news)
    try:
        with warnings.catch_warnings():
            # audiocraft's convolutions use the older of torch's two weight norms; its checkpoints are named after it.
            warnings.filterwarnings("ignore", message=r"`torch\.nn\.utils\.weight_norm` is deprecated")
            yield
    finally:
        xformers.removeFilter(_is_news)
