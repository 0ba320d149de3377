"""Trains the language model: `python -m training.lm --run DIR --minutes 15`, once the codec keeps the tempo.

The model begins able to look back (`looking_back.py`). A chunk is cut from a loop that goes round; of some, fewer and
fewer, it is a bar or a part of one again and again; of others the last bar comes again before the whole was heard: so
what has no model yet is made of the bar before. Chunks are short at first, which costs attention less, and at the end
as long as the engine's window. After a beginning that is right, as a prompt is, some codes are shown as others: one
by one, or as stretches of the same loop out of step, or of one frame that stands still. So a slip of its own is
something that the model has seen, and goes on after; without, it lost the grid, or fell silent for good. A row's
description is left out now and then: so guidance has something to compare with. All descriptions of a batch have one
length, as each has in the engine: no padding is attended to.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gary.engine.linear import default_precision
from gary.engine.patterns import DelayPattern, delays_of
from training.curves import draw_curves
from training.grid import FRAMES_S
from training.run import Budget, Phase, Run, cosine, train
from training.setup import add_common, begin
from training.tokens import Cycles, cycles_of

LM = "lm"
GATE = 0.9  # of the tempi found in the truth, found in the codec's rendering too
TILED = 0.3  # of the chunks at the beginning, and fewer by as much as has passed
TILES = (1 / 8, 1 / 4, 1 / 2, 1)  # of a bar
HELD = 0.4  # of the chunks at all times: their last bar comes again before the whole cycle was heard
PROMPT_FRAMES = 6 * FRAMES_S  # at most so many are shown as they are
SLIP_FRAMES = (4, 8, 16, 32)  # of a stretch that is out of step, or stands still
GROWTH = ((0.0, 1 / 3), (0.4, 2 / 3), (0.8, 1.0))  # from so far on, chunks are this share of the whole length


@dataclass(frozen=True)
class LmPlan:
    """How the language model is trained.

    Attributes:
        batch: rows where they have their whole length; of shorter ones there are more.
        chunk_frames: of a row at the end; the engine's window is 1500, and positions that were never seen mean nothing.
        unsaid: share of rows without their description.
        noise: up to this share of a row, once it has begun, is shown as something else; what it is to say stays.
    """

    batch: int = 32
    chunk_frames: int = 30 * FRAMES_S
    rate: float = 1e-3
    unsaid: float = 0.2
    noise: float = 0.3

    def shape(self, progress: float) -> tuple[int, int]:
        """Rows of a batch, and frames of each."""
        share = max(share for since, share in GROWTH if progress >= since)
        frames = round(share * self.chunk_frames)
        return self.batch * self.chunk_frames // frames, frames


@dataclass(frozen=True, eq=False)
class Chunks:
    """A batch.

    Attributes:
        codes: [B, K, T] int64, what the model is to say.
        seen: [B, K, T] int64, what it is shown of them: the same, but for noise.
        text: [B, L, D] float32.
        said: [B] bool, whose description is given.
    """

    codes: Tensor
    seen: Tensor
    text: Tensor
    said: Tensor


class Draw:
    """Batches by their step, cut from cycles on the device."""

    def __init__(self, cycles: Cycles, plan: LmPlan, device: str) -> None:
        self._cycles, self._plan, self._device = cycles.to(device), plan, device
        lengths = cycles.text_lengths.numpy()
        self._by_length = {length: np.flatnonzero(lengths == length) for length in np.unique(lengths)}
        self._lengths = lengths

    def __call__(self, step: int, progress: float) -> Chunks:
        plan, random = self._plan, np.random.default_rng([5, step])
        count, frames = plan.shape(progress)
        length = self._lengths[int(random.integers(len(self._lengths)))]
        rows = self._on_device(random.choice(self._by_length[length], count))
        offsets = self._on_device(random.integers(0, 1 << 30, count))
        codes = self._cycles.cut(rows, offsets, *self._repeats(rows, random, progress), frames)
        return Chunks(
            codes=codes,
            seen=self._noisy(codes, random) if plan.noise else codes,
            text=self._cycles.text[rows, : int(length)].float(),
            said=self._on_device(random.random(count) >= plan.unsaid),
        )

    def _repeats(self, rows: Tensor, random: np.random.Generator, progress: float) -> tuple[Tensor, Tensor]:
        """How much of each row's loop is heard, and how much of that comes again from then on: [B], [B]."""
        bars, lengths = self._cycles.bars[rows], self._cycles.lengths[rows]
        held = self._on_device(random.random(len(rows)) < HELD)
        some = (bars + self._on_device(random.random(len(rows))) * (lengths - bars)).long()
        heard, tiles = torch.where(held, some, lengths), torch.where(held, bars, lengths)
        parts = (bars * self._on_device(random.choice(TILES, len(rows)))).long()
        tiled = self._on_device(random.random(len(rows)) < TILED - progress)
        return torch.where(tiled, parts, heard), torch.where(tiled, parts, tiles)

    def _noisy(self, codes: Tensor, random: np.random.Generator) -> Tensor:
        """What is shown of codes [B, K, T]: of a third of the rows, on an average, some are those of the next row.

        Of another third, stretches are those of another place in the same row, so that what came just before misleads.
        Of the rest, stretches stand still at their first frame: a silence that lasted too long was never left, since
        what had followed on silence was silence.
        """
        count, _, frames = codes.shape
        share = self._on_device(random.uniform(0, self._plan.noise, (count, 1, 1)))
        right = random.integers(0, min(PROMPT_FRAMES, frames // 2) + 1, (count, 1))
        begun = self._on_device(np.arange(frames) >= right)[:, None]  # [B, 1, T]
        others = self._on_device(random.random(codes.shape)) < share
        scattered = torch.where(begun & others, codes.roll(1, dims=0), codes)

        length = int(random.choice(SLIP_FRAMES))
        drawn = random.random((count, 1, -(-frames // length))).repeat(length, axis=-1)[..., :frames]
        slipping = begun & (self._on_device(drawn) < share)
        passed = np.arange(frames)
        elsewhere = (passed + random.integers(1, frames, (count, 1))) % frames
        still = np.broadcast_to(passed - passed % length, (count, frames))
        sort = random.integers(3, size=(count, 1))
        place = self._on_device(np.where(sort == 1, elsewhere, still))  # [B, T]
        slipped = torch.where(slipping, codes.gather(-1, place[:, None].expand_as(codes)), codes)
        return torch.where(self._on_device(sort == 0)[..., None], scattered, slipped)

    def _on_device(self, drawn: Any) -> Tensor:
        return torch.from_numpy(np.asarray(drawn)).to(self._device, non_blocking=True)


def lm_phase(lm: Any, cycles: Cycles, plan: LmPlan, device: str) -> Phase[Chunks]:
    """The language model's training, to be run by `training.run.train`."""
    pattern = DelayPattern(delays_of(lm.pattern_provider))
    weights = [weight for weight in lm.parameters() if weight.requires_grad]
    return Phase(
        name=LM,
        model=lm,
        optimizer=torch.optim.AdamW(
            weights, lr=plan.rate, betas=(0.9, 0.95), weight_decay=0.05, fused=device == "cuda"
        ),
        batch=Draw(cycles, plan, device),
        loss=lambda chunks: next_token_loss(lm, pattern, chunks, device),
        rate=cosine(plan.rate),
    )


def next_token_loss(lm: Any, pattern: DelayPattern, chunks: Chunks, device: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross entropy of every code, given those before it; its parts by codebook as figures."""
    wanted = pattern.to_sequence(chunks.codes, lm.special_token_id)[..., 1:]  # [B, K, S]
    seen = pattern.to_sequence(chunks.seen, lm.special_token_id)[..., :-1]
    text = lm.condition_provider.conditioners["description"].output_proj(chunks.text) * chunks.said[:, None, None]
    mask = chunks.said[:, None].expand(text.shape[:2]).int()
    with _autocast(device):
        losses = [
            functional.cross_entropy(
                logits.float().flatten(0, 1),
                wanted[:, book].flatten(),
                ignore_index=lm.special_token_id,
                reduction="sum",
            )
            for book, logits in enumerate(_logits(lm, seen, text, mask))
        ]
    frames = chunks.codes[:, 0].numel()
    by_book = torch.stack(losses) / frames  # [K]
    return by_book.mean(), {f"book_{book}": loss.detach() for book, loss in enumerate(by_book)}


def _logits(lm: Any, seen: Tensor, text: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """Of each codebook in turn, [B, S, card]: `LMModel.forward`, which would stack and copy them all."""
    heard = sum(embedding(seen[:, book]) for book, embedding in enumerate(lm.emb))  # [B, S, D]
    heard, described = lm.fuser(heard, {"description": (text, mask)})
    known = lm.out_norm(lm.transformer(heard, cross_attention_src=described))
    return (linear(known) for linear in lm.linears)


def _autocast(device: str) -> AbstractContextManager[Any]:
    """bf16 where it is the faster: a transformer bears it, as the codec did not."""
    quick = device == "cuda" or default_precision(device) == "bf16"
    return torch.autocast(device, torch.bfloat16) if quick else nullcontext()


def check_gate(run: Run) -> None:
    """Refuses to go on with a codec that loses the tempo: what it is trained on would not hold what it is to learn.

    Raises:
        SystemExit: the codec was not judged, or keeps too few tempi.
    """
    verdict = run.directory / "codec.json"
    if not verdict.exists():
        raise SystemExit(f"{verdict} is missing: the codec was not judged yet")
    ratio = json.loads(verdict.read_text())["tempo_ratio"]
    if ratio < GATE:
        raise SystemExit(f"the codec keeps {ratio:.2f} of the tempi, asked are {GATE}; --ungated goes on anyway")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--loops", type=int, default=40_000, help="that are encoded and learnt from")
    parser.add_argument("--batch", type=int, default=LmPlan.batch)
    parser.add_argument("--chunk-s", type=float, default=LmPlan.chunk_frames / FRAMES_S)
    parser.add_argument("--rate", type=float, default=LmPlan.rate)
    parser.add_argument("--noise", type=float, default=LmPlan.noise, help="share of tokens seen as others")
    parser.add_argument("--ungated", action="store_true", help="go on with a codec that loses the tempo")
    options = parser.parse_args()
    run, device = begin(options)
    if not options.ungated:
        check_gate(run)

    from training.codec import load_codec
    from training.networks import TEXT_ENCODER, codec_config, lm_config, make_codec, make_lm
    from training.setup import hub_home
    from training.text import write_text_encoder

    write_text_encoder(hub_home(options.run), TEXT_ENCODER)
    codec = make_codec(codec_config())
    load_codec(codec, run)
    codec.to(device).eval()
    lm = make_lm(lm_config(), device).train()
    conditioner = lm.condition_provider.conditioners["description"]
    file = run.directory / "tokens.pt"
    cycles = cycles_of(codec, conditioner, file, options.loops, options.workers, device)
    del codec
    plan = LmPlan(
        batch=options.batch,
        chunk_frames=round(options.chunk_s * FRAMES_S),
        rate=options.rate,
        noise=options.noise,
    )
    budget = Budget(options.steps, options.minutes, options.sitting_minutes)
    train(lm_phase(lm, cycles, plan, device), run, budget)
    draw_curves(run)


if __name__ == "__main__":
    main()
