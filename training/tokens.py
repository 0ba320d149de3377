"""What the language model hears: cycles of codes, and what is said of them. A cycle repeats, so any chunk can be cut.

A loop is played before, through and after one cycle, and the middle is kept: the frames that a codec spoils at the ends
of what it is given never reach the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gary.engine.card import unnamed_sha256
from training.drums import Wave
from training.grid import FRAME_SAMPLES, bar_frames
from training.loops import make_loop
from training.run import log, write_whole

MARGIN_FRAMES = 16  # more than the encoder sees to either side
_TOGETHER = 32  # cycles of one length, encoded at once
_SAID_TOGETHER = 512


@dataclass(frozen=True, eq=False)
class Cycles:
    """Codes of many loops, one cycle each, one after the other.

    Attributes:
        codes: [K, all frames] int16.
        starts, lengths, bars: [loops] int64, frames: where a cycle begins, how long it is, how long its bar is.
        text: [loops, L, D] float16, what the text encoder says of each description, zero beyond its end.
        text_lengths: [loops] int64, at most L.
    """

    codes: Tensor
    starts: Tensor
    lengths: Tensor
    bars: Tensor
    text: Tensor
    text_lengths: Tensor

    def to(self, device: str) -> Cycles:
        return Cycles(*(getattr(self, field.name).to(device) for field in fields(self)))

    def cut(self, rows: Tensor, offsets: Tensor, heard: Tensor, tiles: Tensor, frames: int) -> Tensor:
        """Chunks of loops that go round: so much of each, and from then on the last of it again and again.

        Args:
            rows: [B] int64, of loops.
            offsets: [B] int64, frames into the cycle at which a chunk begins.
            heard: [B] int64, frames of the loop as it is.
            tiles: [B] int64, at most `heard`, how many of these come again; both the cycle's length leave the loop as
                it is.

        Returns:
            [B, K, frames] int64.
        """
        lengths = self.lengths[rows, None]
        passed = torch.arange(frames, device=rows.device)[None]  # [1, T]
        over = (passed - heard[:, None]) % tiles[:, None]
        passed = torch.where(passed < heard[:, None], passed, heard[:, None] - tiles[:, None] + over)
        place = self.starts[rows, None] + (offsets[:, None] + passed) % lengths  # [B, T]
        return self.codes[:, place].transpose(0, 1).long()


@dataclass(frozen=True, eq=False)
class _Cycle:
    number: int
    wave: Wave  # [N], a margin, the cycle, a margin
    bar_frames: int
    description: str

    @property
    def frames(self) -> int:
        return len(self.wave) // FRAME_SAMPLES - 2 * MARGIN_FRAMES


class _Played(Dataset[_Cycle]):
    def __getitem__(self, number: int) -> _Cycle:
        """Every second loop begins somewhere within a frame: nobody presses a button on the grid."""
        loop = make_loop(number)
        margin = MARGIN_FRAMES * FRAME_SAMPLES
        late = int(np.random.default_rng([7, number]).integers(FRAME_SAMPLES)) if number % 2 else 0
        wave = loop.played(len(loop.samples) + 2 * margin, late - margin)
        return _Cycle(number, wave, bar_frames(loop.score.step_frames), loop.description)


def cycles_of(codec: Any, conditioner: Any, file: Path, loops: int, workers: int, device: str) -> Cycles:
    """The codes of the first `loops` training loops: from `file` where it holds them, else made and put there."""
    sha256 = unnamed_sha256([*codec.encoder.parameters(), *(book.codebook for book in codec.quantizer.vq.layers)])
    if file.exists():
        saved = torch.load(file, weights_only=True)
        if saved["codec_sha256"] == sha256 and len(saved["cycles"]["starts"]) == loops:
            return Cycles(**saved["cycles"])
    made = _make(codec, conditioner, loops, workers, device)
    content = {field.name: getattr(made, field.name) for field in fields(made)}
    write_whole(file, {"codec_sha256": sha256, "cycles": content})
    return made


def _make(codec: Any, conditioner: Any, loops: int, workers: int, device: str) -> Cycles:
    loader: DataLoader[_Cycle] = DataLoader(
        _Played(), batch_size=None, sampler=range(loops), num_workers=workers, prefetch_factor=16 if workers else None
    )
    codes: list[Tensor] = [torch.empty(0)] * loops
    bars = torch.zeros(loops, dtype=torch.int64)
    descriptions = [""] * loops
    for together in _of_one_length(loader):
        for cycle, its_codes in zip(together, _encode(codec, together, device), strict=True):
            codes[cycle.number] = its_codes
            bars[cycle.number] = cycle.bar_frames
            descriptions[cycle.number] = cycle.description
    lengths = torch.tensor([cycle.shape[1] for cycle in codes])
    text, text_lengths = _say(conditioner, descriptions)
    log.info("tokens: %d cycles, %.1f h of codes", loops, float(lengths.sum()) / 50 / 3600)
    return Cycles(torch.cat(codes, dim=1), lengths.cumsum(0) - lengths, lengths, bars, text, text_lengths)


def _of_one_length(cycles: Iterator[_Cycle] | DataLoader[_Cycle]) -> Iterator[list[_Cycle]]:
    """Cycles as they come, put together by their length."""
    waiting: dict[int, list[_Cycle]] = {}
    for cycle in cycles:
        together = waiting.setdefault(cycle.frames, [])
        together.append(cycle)
        if len(together) == _TOGETHER:
            yield waiting.pop(cycle.frames)
    yield from waiting.values()


@torch.no_grad()
def _encode(codec: Any, cycles: list[_Cycle], device: str) -> list[Tensor]:
    """Codes of each cycle, [K, T] int16, without its margins; in fp32, as they will be encoded in service."""
    waves = torch.from_numpy(np.stack([cycle.wave for cycle in cycles]))[:, None].to(device)  # [B, 1, N]
    codes, _ = codec.encode(waves)  # [B, K, T]
    return list(codes[..., MARGIN_FRAMES:-MARGIN_FRAMES].to(torch.int16).cpu())


@torch.no_grad()
def _say(conditioner: Any, descriptions: list[str]) -> tuple[Tensor, Tensor]:
    """What the text encoder makes of descriptions; those of one length together, so that nobody is padded."""
    tokens = {text: conditioner.t5_tokenizer(text)["input_ids"] for text in dict.fromkeys(descriptions)}
    by_length: dict[int, list[str]] = {}
    for text, ids in tokens.items():
        by_length.setdefault(len(ids), []).append(text)
    said: dict[str, Tensor] = {}
    for texts in by_length.values():
        for first in range(0, len(texts), _SAID_TOGETHER):
            some = texts[first : first + _SAID_TOGETHER]
            ids = torch.tensor([tokens[text] for text in some], device=conditioner.device)  # [B, L]
            said.update(zip(some, conditioner.t5(input_ids=ids).last_hidden_state.half().cpu(), strict=True))
    rows = [said[text] for text in descriptions]  # each [L, D]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])
