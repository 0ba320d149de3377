"""The demo model's text encoder: a T5 of one narrow layer, its weights random and never trained.

What it says of a word is the same at every time, and that is all that a language model needs of it to learn which words
go with which sound. Its tokenizer is made from the generator's own descriptions. It is laid out as a hub cache entry,
since audiocraft asks the hub's client for it by name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.score import write_score

WIDTH = 512  # of t5-small, which audiocraft takes for granted
_REVISION = "0" * 40  # a hub cache names snapshots after commits; this has none
_OTHER_WORDS = (
    "a slow song with a soft melody and a deep bass line, no drums",
    "energetic dance music, a fast breakbeat and bright synthesizers",
    "quiet piano, warm guitar, strings, percussion and voices",
)


def write_text_encoder(hub_home: Path, name: str) -> Path:
    """Makes the encoder where there is none; its directory. Call it once the process's hub home is settled.

    Args:
        name: as audiocraft will ask for it.
    """
    part = hub_home / "hub" / f"models--{name}"
    snapshot = part / "snapshots" / _REVISION
    if not (part / "refs" / "main").exists():
        snapshot.mkdir(parents=True, exist_ok=True)
        _write(snapshot)
        (part / "refs").mkdir(exist_ok=True)
        (part / "refs" / "main").write_text(_REVISION)  # last: it says that all is there
    return part


def _write(snapshot: Path) -> None:
    from gary.engine.tiny_weights import write_random_t5

    random = np.random.default_rng(6)
    sentences = [write_score(random).description for _ in range(2000)]
    write_random_t5(snapshot, [*sentences, *_OTHER_WORDS], vocabulary=256, width=WIDTH, offset=13)
