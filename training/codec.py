"""Trains the codec: `python -m training.codec --run DIR --minutes 10`. Three parts, each begun where it was left.

1. autoencoder: encoder and decoder with nothing between them, in fp32 (in bf16 it diverged).
2. codebooks: k-means over the latents of the encoder, which is frozen from here on.
3. decoder: taught to decode what the codebooks leave of the latents.

Ends with the figure that the language model waits for: how many held-out loops keep their tempo through the codec.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.codebooks import fill
from training.crops import Crops
from training.curves import draw_curves
from training.grid import RATE_HZ
from training.run import Budget, Phase, Run, cosine, log, train, write_whole
from training.setup import add_common, begin
from training.spectra import Likeness, si_sdr_db

AUTOENCODER, CODEBOOKS, DECODER = "autoencoder", "codebooks", "decoder"
SHARE = {AUTOENCODER: 0.6, DECODER: 0.4}  # of the minutes
JUDGED_LOOPS = 200


@dataclass(frozen=True)
class CodecPlan:
    """How the codec is trained.

    Attributes:
        batch: stretches a step, of `crop_s` each.
        latents: frames that the codebooks are made from, in `rounds` of k-means.
    """

    batch: int = 64
    crop_s: float = 1.0
    rate: float = 1e-3
    wave_weight: float = 10.0  # at 2 the decoder found the phase later, and was worse in every other figure till then
    latents: int = 200_000
    rounds: int = 25
    workers: int = 0

    @property
    def crop_samples(self) -> int:
        return round(self.crop_s * RATE_HZ)


def autoencoder_phase(codec: Any, plan: CodecPlan, device: str) -> Phase[Tensor]:
    """Encoder and decoder, without a quantizer between them."""
    likeness = Likeness(plan.wave_weight).to(device)

    def loss(wanted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        made = codec.decoder(codec.encoder(wanted))[..., : wanted.shape[-1]]
        return _judged(likeness, made, wanted)

    weights = [*codec.encoder.parameters(), *codec.decoder.parameters()]
    return _phase(AUTOENCODER, codec, weights, plan, loss, device)


def decoder_phase(codec: Any, plan: CodecPlan, device: str) -> Phase[Tensor]:
    """The decoder alone, given what the codebooks make of the latents."""
    likeness = Likeness(plan.wave_weight).to(device)

    def loss(wanted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            latents = codec.decode_latent(codec.quantizer.encode(codec.encoder(wanted)))  # [B, D, T]
        return _judged(likeness, codec.decoder(latents)[..., : wanted.shape[-1]], wanted)

    return _phase(DECODER, codec, list(codec.decoder.parameters()), plan, loss, device)


def _judged(likeness: Likeness, made: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    loss, figures = likeness(made, wanted)
    return loss, {**figures, "si_sdr_db": si_sdr_db(made.detach(), wanted).mean()}


def _phase(
    name: str, codec: Any, weights: list[nn.Parameter], plan: CodecPlan, loss: Any, device: str
) -> Phase[Tensor]:
    return Phase(
        name=name,
        model=codec,
        optimizer=torch.optim.Adam(weights, lr=plan.rate, betas=(0.8, 0.99), fused=device == "cuda"),
        batch=Crops(plan.batch, plan.crop_samples, plan.workers, device),
        loss=loss,
        rate=cosine(plan.rate if name == AUTOENCODER else 0.5 * plan.rate),
    )


@torch.no_grad()
def make_codebooks(codec: Any, plan: CodecPlan, device: str) -> list[float]:
    """Fills the quantizer from loops that were not heard yet; the share of variance that each level leaves."""
    crops = Crops(plan.batch, plan.crop_samples, plan.workers, device)
    frames_per_batch = plan.batch * math.ceil(plan.crop_s * 50)
    batches = math.ceil(plan.latents / frames_per_batch)
    latents = [codec.encoder(crops(1_000_000 + index)).transpose(1, 2).flatten(0, 1) for index in range(batches)]
    return fill(codec, torch.cat(latents)[: plan.latents], plan.rounds)


def train_codec(codec: Any, run: Run, plan: CodecPlan, budgets: dict[str, Budget], device: str) -> bool:
    """All three parts, each from where it was left; whether all are done."""
    if not run.state_file(DECODER).exists() and not run.weights_file(DECODER).exists():
        if not train(autoencoder_phase(codec, plan, device), run, budgets[AUTOENCODER]):
            return False
        left = make_codebooks(codec, plan, device)
        log.info("codebooks: variance left after each level: %s", [round(share, 3) for share in left])
        write_whole(run.directory / f"{CODEBOOKS}.pt", {"left": left})
        phase = decoder_phase(codec, plan, device)
        run.save(phase, step=0, elapsed_s=0.0, done=False)
    return train(decoder_phase(codec, plan, device), run, budgets[DECODER])


def load_codec(codec: Any, run: Run) -> None:
    """The weights of a finished codec, rounded to fp16 as they will be exported: unrounded ones would give other codes.

    Raises:
        FileNotFoundError: there are none.
        ValueError: its training is not done.
    """
    saved = torch.load(run.weights_file(DECODER), map_location="cpu", weights_only=True)
    if not saved["done"]:
        raise ValueError(f"the codec in {run.directory} is at step {saved['step']} of its decoder, not done")
    codec.load_state_dict(saved["model"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--batch", type=int, default=CodecPlan.batch)
    parser.add_argument("--crop-s", type=float, default=CodecPlan.crop_s)
    parser.add_argument("--rate", type=float, default=CodecPlan.rate)
    parser.add_argument("--wave-weight", type=float, default=CodecPlan.wave_weight)
    parser.add_argument("--latents", type=int, default=CodecPlan.latents, help="frames that codebooks are made from")
    parser.add_argument("--judged-loops", type=int, default=JUDGED_LOOPS)
    options = parser.parse_args()
    run, device = begin(options)

    from training.networks import codec_config, make_codec

    codec = make_codec(codec_config()).to(device)
    plan = CodecPlan(
        batch=options.batch,
        crop_s=options.crop_s,
        rate=options.rate,
        wave_weight=options.wave_weight,
        latents=options.latents,
        workers=options.workers,
    )
    budgets = {
        name: Budget(options.steps, share * options.minutes, options.sitting_minutes) for name, share in SHARE.items()
    }
    done = train_codec(codec, run, plan, budgets, device)
    draw_curves(run)
    if done:
        from training.judge import judge_codec

        load_codec(codec, run)
        figures = judge_codec(codec, options.judged_loops, device)
        (run.directory / "codec.json").write_text(json.dumps(figures) + "\n")
        log.info("codec: %s", figures)


if __name__ == "__main__":
    main()
