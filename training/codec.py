"""Makes the codec: `python -m training.codec --run DIR --minutes 10`. Only its decoder is trained, in fp32.

1. encoder: a cascade of lapped transforms and the principal components of what it makes of loops (`lapped.py`).
2. codebooks: k-means over its latents.
3. decoder: the cascade's inverse at first, then taught to decode what the codebooks leave of the latents.

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
from training.lapped import FRAME, coefficients, fit_rotation, settle
from training.run import Budget, Phase, Run, cosine, halved, log, train
from training.setup import add_common, begin
from training.spectra import Likeness, si_sdr_db

DECODER = "decoder"
CUT_FRAMES = 2  # at either end of a stretch, where what lies beyond is not heard
JUDGED_LOOPS = 200


@dataclass(frozen=True)
class CodecPlan:
    """How the codec is made.

    Attributes:
        batch: stretches a step, of `crop_s` each.
        frames: that rotation and codebooks are made from; these in `rounds` of k-means.
        flattening: how much more the rotation counts what is usually quiet, 0 to 1.
    """

    batch: int = 16
    crop_s: float = 1.0
    rate: float = 3e-4
    wave_weight: float = 3.0
    flux_weight: float = 4.0
    frames: int = 200_000
    rounds: int = 15
    flattening: float = 0.6
    workers: int = 0

    @property
    def crop_samples(self) -> int:
        return round(self.crop_s * RATE_HZ)


def decoder_phase(codec: Any, plan: CodecPlan, device: str) -> Phase[Tensor]:
    """The decoder alone, given what the codebooks make of the latents."""
    likeness = Likeness(plan.wave_weight, plan.flux_weight).to(device)

    def loss(wanted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            latents = codec.decode_latent(codec.quantizer.encode(codec.encoder(wanted)))  # [B, D, T]
        return _judged(likeness, codec.decoder(latents)[..., : wanted.shape[-1]], wanted)

    weights = list(codec.decoder.parameters())
    return Phase(
        name=DECODER,
        model=codec,
        optimizer=torch.optim.Adam(weights, lr=plan.rate, betas=(0.8, 0.99), fused=device == "cuda"),
        batch=Crops(plan.batch, plan.crop_samples, plan.workers, device),
        loss=loss,
        rate=cosine(plan.rate),
    )


def _judged(likeness: Likeness, made: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    loss, figures = likeness(made, wanted)
    return loss, {**figures, "si_sdr_db": si_sdr_db(made.detach(), wanted).mean()}


@torch.no_grad()
def begin_codec(codec: Any, plan: CodecPlan, device: str) -> tuple[float, list[float]]:
    """Settles encoder, codebooks and decoder from loops that the decoder is not trained on.

    The first two are final, so they are rounded at once as they will be exported.

    Returns:
        The share of the weighted variance that the latents hold, and what of theirs each codebook leaves.
    """
    crops = Crops(plan.batch, plan.crop_samples, plan.workers, device)
    frames_per_crop = plan.crop_samples // FRAME - 2 * CUT_FRAMES
    batches = math.ceil(plan.frames / (plan.batch * frames_per_crop))
    waves = [crops(1_000_000 + index) for index in range(batches)]  # each [B, 1, N]
    heard = [coefficients(wave)[..., CUT_FRAMES:-CUT_FRAMES].transpose(1, 2).flatten(0, 1) for wave in waves]
    rotation = fit_rotation(torch.cat(heard)[: plan.frames], codec.encoder.dimension, plan.flattening)
    settle(codec, rotation)
    _round(codec.encoder)
    latents = [codec.encoder(wave)[..., CUT_FRAMES:-CUT_FRAMES].transpose(1, 2).flatten(0, 1) for wave in waves]
    left = fill(codec, torch.cat(latents)[: plan.frames], plan.rounds)
    _round(codec.quantizer)
    return rotation.kept, left


def _round(part: nn.Module) -> None:
    part.load_state_dict(halved(part.state_dict()))


def train_codec(codec: Any, run: Run, plan: CodecPlan, budget: Budget, device: str) -> bool:
    """All of it, from where it was left; whether it is done."""
    phase = decoder_phase(codec, plan, device)
    if not run.state_file(DECODER).exists() and not run.weights_file(DECODER).exists():
        kept, left = begin_codec(codec, plan, device)
        log.info("latents: %.3f of the variance; each codebook leaves %s", kept, [round(share, 3) for share in left])
        run.save(phase, step=0, elapsed_s=0.0, done=False)
    return train(phase, run, budget)


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
    parser.add_argument("--flux-weight", type=float, default=CodecPlan.flux_weight)
    parser.add_argument("--frames", type=int, default=CodecPlan.frames, help="that the codebooks are made from")
    parser.add_argument("--flattening", type=float, default=CodecPlan.flattening, help="of the spectrum, 0 to 1")
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
        flux_weight=options.flux_weight,
        frames=options.frames,
        flattening=options.flattening,
        workers=options.workers,
    )
    budget = Budget(options.steps, options.minutes, options.sitting_minutes)
    done = train_codec(codec, run, plan, budget, device)
    draw_curves(run)
    if done:
        from training.judge import judge_codec

        load_codec(codec, run)
        figures = judge_codec(codec, options.judged_loops, device)
        (run.directory / "codec.json").write_text(json.dumps(figures) + "\n")
        log.info("codec: %s", figures)


if __name__ == "__main__":
    main()
