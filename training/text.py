"""The demo model's text encoder: a T5 of one narrow layer, its weights random and never trained.

What it says of a word is the same at every time, and that is all that a language model needs of it to learn which words
go with which sound. Its tokenizer is made from the generator's own descriptions. It is laid out as a hub cache entry,
since audiocraft asks the hub's client for it by name.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

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
    import sentencepiece
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    from gary.engine.tiny_weights import seeded

    random = np.random.default_rng(6)
    sentences = [write_score(random).description for _ in range(2000)]
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*sentences, *_OTHER_WORDS]),
        model_writer=pieces,
        vocab_size=256,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,  # the ids of T5
        num_threads=1,
        minloglevel=2,
    )
    model_file = snapshot / "spiece.model"
    model_file.write_bytes(pieces.getvalue())
    tokenizer: Any = T5Tokenizer(str(model_file), legacy=True)
    tokenizer.save_pretrained(snapshot)
    config = T5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=32, d_ff=128, num_layers=1, num_heads=2)
    seeded(lambda: T5EncoderModel(config), 13).save_pretrained(snapshot)
