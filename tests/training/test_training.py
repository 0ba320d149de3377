"""What is trained, trains: a step lowers the loss, a run that stops goes on as if it had not, and a gate holds."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from gary.engine.patterns import DelayPattern, delays_of
from training.codebooks import assign, fill, k_means
from training.codec import DECODER, CodecPlan, begin_codec, decoder_phase, load_codec
from training.crops import Crops
from training.curves import draw_curves
from training.grid import CODEBOOK_SIZE, FRAME_SAMPLES
from training.lapped import coefficients, fit_rotation, settle
from training.lm import GATE, Draw, LmPlan, check_gate, lm_phase
from training.loops import make_loop
from training.networks import codec_config, lm_config, make_codec, make_lm
from training.run import Budget, Phase, Run, TrainingDiverged, cosine, halved, train
from training.spectra import flux_error, si_sdr_db
from training.tokens import MARGIN_FRAMES, Cycles, cycles_of

NARROW: dict[str, Any] = {"n_filters": 10, "dimension": 16}
PLAN = CodecPlan(batch=4, crop_s=0.5, rate=1e-4, frames=2200, rounds=2)
LM_PLAN = LmPlan(batch=2, chunk_frames=80)


def narrow_codec() -> Any:
    """Begun: its encoder and codebooks are final, its decoder is not trained."""
    codec = make_codec(codec_config(**NARROW))
    codec.load_state_dict(_begun())
    return codec


@cache
def _begun() -> dict[str, torch.Tensor]:
    codec = make_codec(codec_config(**NARROW))
    begin_codec(codec, PLAN, "cpu")
    state: dict[str, torch.Tensor] = codec.state_dict()
    return state


def narrow_lm() -> Any:
    """With the text encoder of the tiny checkpoints, which this process's hub home holds."""
    return make_lm(lm_config("t5-base", dim=64, num_heads=4, num_layers=2))


@pytest.fixture(scope="module")
def cycles(tmp_path_factory: pytest.TempPathFactory) -> Cycles:
    codec = narrow_codec()
    conditioner = narrow_lm().condition_provider.conditioners["description"]
    return cycles_of(codec.eval(), conditioner, tmp_path_factory.mktemp("codes") / "tokens.pt", 6, 0, "cpu")


def losses_on_one_batch(phase: Phase[Any], steps: int) -> list[float]:
    """The loss before each of some steps, all on the batch of step 0."""
    batch, found = phase.batch(0, 0.5), []
    for _ in range(steps):
        loss, _ = phase.loss(batch)
        found.append(float(loss))
        phase.optimizer.zero_grad()
        loss.backward()
        phase.optimizer.step()
    return found


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_batches_follow_from_their_step() -> None:
    """Whoever makes the loops, here or in other processes, and wherever one begins: batch 2 is batch 2."""
    here, elsewhere = Crops(8, 3200, 0, "cpu"), Crops(8, 3200, 2, "cpu")
    in_order = [here(step) for step in range(3)]
    assert torch.equal(elsewhere(2), in_order[2])
    assert torch.equal(here(0), in_order[0])
    assert not torch.equal(in_order[0], in_order[1])
    assert in_order[0].shape == (8, 1, 3200)


def test_the_decoder_learns_and_the_encoder_stays() -> None:
    """Its loss falls, and neither encoder nor codebooks move."""
    codec = narrow_codec()
    before = {name: weight.clone() for name, weight in codec.state_dict().items() if not name.startswith("decoder")}
    losses = losses_on_one_batch(decoder_phase(codec, PLAN, "cpu"), 30)
    assert losses[-1] < 0.98 * losses[0]
    assert same(before, {name: weight for name, weight in codec.state_dict().items() if name in before})


def test_steps_lower_the_loss_of_the_language_model(cycles: Cycles) -> None:
    """It learns one batch."""
    losses = losses_on_one_batch(lm_phase(narrow_lm(), cycles, LM_PLAN, "cpu"), 15)
    assert losses[-1] < losses[0] - 0.5


def test_it_looks_back_before_it_has_learnt() -> None:
    """Of codes that repeat, whatever they are, most are said again after the first time, though nothing was trained."""
    lm = make_lm(lm_config("t5-base")).eval()
    cycle = torch.randint(CODEBOOK_SIZE, (1, 4, 60), generator=torch.Generator().manual_seed(5))
    pattern = DelayPattern(delays_of(lm.pattern_provider))
    sequence = pattern.to_sequence(cycle.repeat(1, 1, 4), lm.special_token_id)  # [1, K, S]
    text = torch.zeros(1, 1, 256)
    with torch.no_grad():
        logits = lm(sequence[..., :-1], [], {"description": (text, torch.zeros(1, 1).int())})  # [1, K, S, card]
    right = (logits.argmax(-1) == sequence[..., 1:]).float()
    assert float(right[..., :60].mean()) < 0.1  # what was never heard is not known
    assert float(right[..., 80:200].mean()) > 0.6


def stopped_at(phase: Phase[Any], step: int) -> Phase[Any]:
    """The same phase on a machine that goes away before that step."""

    def batch(asked: int, progress: float) -> Any:
        if asked == step:
            raise ConnectionAbortedError
        return phase.batch(asked, progress)

    return replace(phase, batch=batch)


@pytest.mark.parametrize("kind", ["codec", "language model"])
def test_a_run_that_breaks_off_goes_on_bit_for_bit(tmp_path: Path, cycles: Cycles, kind: str) -> None:
    """One whole run, and one whose machine dies after three of six steps and that begins anew from the disk."""

    def phase() -> Phase[Any]:
        if kind == "codec":
            return decoder_phase(narrow_codec(), PLAN, "cpu")
        return lm_phase(narrow_lm(), cycles, LM_PLAN, "cpu")

    whole, broken, mended = phase(), phase(), phase()
    train(whole, Run(tmp_path / "whole"), Budget(steps=6))
    with pytest.raises(ConnectionAbortedError):
        train(stopped_at(broken, 3), Run(tmp_path / "halved"), Budget(steps=6, save_s=0))
    assert not same(broken.model.state_dict(), whole.model.state_dict())
    assert train(mended, Run(tmp_path / "halved"), Budget(steps=6))
    assert same(mended.model.state_dict(), whole.model.state_dict())


def test_a_sitting_ends_and_leaves_a_state(tmp_path: Path) -> None:
    """A sitting of no minutes trains nothing, says that it is not done, and can be gone on with."""
    run = Run(tmp_path)
    assert not train(decoder_phase(narrow_codec(), PLAN, "cpu"), run, Budget(steps=2, sitting_minutes=0))
    assert train(decoder_phase(narrow_codec(), PLAN, "cpu"), run, Budget(steps=2))
    assert torch.load(run.state_file(DECODER), weights_only=True)["step"] == 2


def test_what_was_done_goes_on_where_more_is_asked(tmp_path: Path) -> None:
    """The same budget again trains nothing; a larger one trains the rest of it."""
    run = Run(tmp_path)
    for steps in (2, 2, 3):
        assert train(decoder_phase(narrow_codec(), PLAN, "cpu"), run, Budget(steps=steps))
        assert torch.load(run.state_file(DECODER), weights_only=True)["step"] == steps


def test_weights_without_a_state_are_enough(tmp_path: Path) -> None:
    """What was carried from another machine is rounded weights alone: training goes on from them, at their step."""
    run = Run(tmp_path)
    phase = decoder_phase(narrow_codec(), PLAN, "cpu")
    train(phase, run, Budget(steps=2))
    run.state_file(DECODER).unlink()
    other = decoder_phase(narrow_codec(), PLAN, "cpu")
    assert run.load(other)["step"] == 2
    assert same(halved(other.model.state_dict()), halved(phase.model.state_dict()))


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    """It is not trained on, and the last good state stays."""
    model = torch.nn.Linear(1, 1)
    phase: Phase[None] = Phase(
        name="bad",
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        batch=lambda step, progress: None,
        loss=lambda _: (model.weight.sum() * float("nan"), {}),
        rate=cosine(1.0),
    )
    with pytest.raises(TrainingDiverged):
        train(phase, Run(tmp_path), Budget(steps=100, save_s=0))
    assert torch.load(tmp_path / "bad.state.pt", weights_only=True)["step"] == 0


def test_curves_are_drawn(tmp_path: Path) -> None:
    """A curve becomes a picture beside it."""
    run = Run(tmp_path)
    for step in (25, 50):
        run.add_point("some", {"step": step, "elapsed_s": 1.0, "loss": 1 / step})
    assert [picture.name for picture in draw_curves(run)] == ["some.png"]
    assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")


def test_onsets_that_cannot_be_known_are_not_kept_silent() -> None:
    """Where it is open which frames rise, saying how often is nearer than saying never; what is right is nearest."""
    rises = (torch.rand(4, 2, 200, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    right, share, never = (float(flux_error(made, rises)) for made in (rises, 0.2 * torch.ones_like(rises), 0 * rises))
    assert right == 0
    assert share < 0.6 * never


def test_a_band_in_which_little_happens_counts_for_little() -> None:
    """The same error as large as all that a quiet band has is not as bad as one as large as what a loud band has."""
    rises = torch.rand(4, 2, 200, generator=torch.Generator().manual_seed(0))
    rises[:, 1] *= 1e-3
    without_loud, without_quiet = rises.clone(), rises.clone()
    without_loud[:, 0] = without_quiet[:, 1] = 0
    assert float(flux_error(without_quiet, rises)) < 0.05 * float(flux_error(without_loud, rises))


def test_k_means_lowers_the_error() -> None:
    """Rounds of it leave less of the points' variance than the first choice did."""
    points = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    errors = [
        float(assign(points, k_means(points, 16, rounds, torch.Generator().manual_seed(3)))[1].mean())
        for rounds in (0, 10)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_a_centre_that_nobody_needs_moves() -> None:
    """Nearly all points are one; a first choice of five takes it five times, and yet the others get centres."""
    points = torch.zeros(2000, 2)
    points[:4] = torch.tensor([[9.0, 0], [0, 9], [-9, 0], [0, -9]])
    _, error = assign(points, k_means(points, 5, 4, torch.Generator().manual_seed(0)))
    assert float(error.max()) < 1e-6


def test_codebooks_leave_less_at_every_level() -> None:
    """Each level of the quantizer takes something of what the one before it left."""
    codec = narrow_codec()
    latents = torch.randn(4000, NARROW["dimension"], generator=torch.Generator().manual_seed(1))
    left = fill(codec, latents, rounds=3)
    assert left == sorted(left, reverse=True)
    assert left[0] < 0.5
    codes = codec.quantizer.encode(latents.T[None])  # [1, K, P]
    again = codec.decode_latent(codes)[0].T
    assert float((again - latents).square().sum(1).mean() / latents.var(dim=0).sum()) == pytest.approx(
        left[-1], rel=0.01
    )


def test_what_a_cut_spoils() -> None:
    """Of a prompt's codes the last frame may differ from that of the music that goes on, and no other."""
    codec = narrow_codec().eval()
    loop = make_loop(0)
    with torch.no_grad():
        cut, whole = (
            codec.encode(torch.from_numpy(loop.played(frames * FRAME_SAMPLES))[None, None])[0][0]
            for frames in (100, 150)
        )  # each [K, T]
    spoilt = (cut != whole[:, :100]).any(dim=0).nonzero()[:, 0].tolist()
    assert spoilt == [99]


def test_codes_repeat_with_the_cycle() -> None:
    """On the grid, what is played again has the same codes again, all of them: the margin is wide enough."""
    codec = narrow_codec().eval()
    loop = make_loop(3)
    frames, margin = len(loop.samples) // FRAME_SAMPLES, MARGIN_FRAMES * FRAME_SAMPLES
    with torch.no_grad():
        wave = loop.played(2 * len(loop.samples) + 2 * margin, -margin)
        codes = codec.encode(torch.from_numpy(wave)[None, None])[0][0, :, MARGIN_FRAMES:-MARGIN_FRAMES]
    assert torch.equal(codes[:, :frames], codes[:, frames:])


def test_the_cascade_loses_nothing() -> None:
    """Sound that becomes 640 numbers a frame comes back from them as it was; of fewer, so much as they hold."""
    wave = torch.from_numpy(make_loop(5).played(64_000))[None, None]
    heard = coefficients(wave)[..., 2:-2].transpose(1, 2).flatten(0, 1)
    energy = float(heard.square().sum() / wave[..., 1280:-1280].square().sum())
    assert energy == pytest.approx(1, abs=0.05)
    for dimensions, least_db in ((640, 40.0), (16, 3.0)):
        codec = make_codec(codec_config(n_filters=40, dimension=dimensions, encoder={"n_filters": 40})).eval()
        rotation = fit_rotation(heard, dimensions, flattening=0.0)
        settle(codec, rotation)
        with torch.no_grad():
            again = codec.decoder(codec.encoder(wave * 0.01))[..., : wave.shape[-1]] / 0.01
        assert float(si_sdr_db(again[..., 1280:-1280], wave[..., 1280:-1280])) > least_db


def test_a_rotation_keeps_the_most() -> None:
    """More dimensions keep more; weights that flatten the spectrum keep more of what is quiet."""
    heard = torch.randn(4000, 640, generator=torch.Generator().manual_seed(2)) * torch.linspace(1, 0.01, 640)
    kept = [fit_rotation(heard, dimensions, 0.0).kept for dimensions in (16, 64, 640)]
    assert kept == sorted(kept)
    assert kept[-1] == pytest.approx(1)
    flat, loud = (fit_rotation(heard, 64, flattening) for flattening in (1.0, 0.0))
    left = [float((heard - heard @ each.into.T @ each.back.T)[:, 320:].square().sum()) for each in (flat, loud)]
    assert left[0] < 0.95 * left[1]


def test_codes_go_round_with_the_music(cycles: Cycles) -> None:
    """A chunk longer than its cycle repeats it; a tile of one bar repeats after a bar, at once or later on."""
    rows = torch.arange(len(cycles.starts))
    offsets = torch.full_like(rows, 5)
    lengths, bars = cycles.lengths, cycles.bars
    plain = cycles.cut(rows, offsets, lengths, lengths, 2000)
    tiled = cycles.cut(rows, offsets, bars, bars, 2000)
    held = cycles.cut(rows, offsets, bars + 7, bars, 2000)
    for row in rows:
        length, bar = int(lengths[row]), int(bars[row])
        assert length % bar == 0
        assert torch.equal(plain[row, :, :100], plain[row, :, length : length + 100])
        assert torch.equal(tiled[row, :, :100], tiled[row, :, bar : bar + 100])
        assert torch.equal(tiled[row, :, :bar], plain[row, :, :bar])
        assert torch.equal(held[row, :, : bar + 7], plain[row, :, : bar + 7])
        assert torch.equal(held[row, :, bar + 7 : 2000], held[row, :, 7 : 2000 - bar])


def test_noise_is_seen_and_not_wanted(cycles: Cycles) -> None:
    """Up to so many of a row's codes are shown as others, the same at the same step; what is to be said stays."""
    clean = lm_phase(narrow_lm(), cycles, replace(LM_PLAN, noise=0.0), "cpu").batch(0, 0.5)
    noisy_phase = lm_phase(narrow_lm(), cycles, replace(LM_PLAN, noise=1.0), "cpu")
    noisy, again = noisy_phase.batch(0, 0.5), noisy_phase.batch(0, 0.5)
    assert torch.equal(clean.seen, clean.codes)
    assert torch.equal(noisy.codes, clean.codes)
    assert torch.equal(noisy.seen, again.seen)
    assert not torch.equal(noisy_phase.loss(noisy)[0], noisy_phase.loss(clean)[0])


def test_noise_is_scattered_or_out_of_step_or_stands_still(cycles: Cycles) -> None:
    """A row begins right; then single codes are other loops', or whole frames are those of another place in its own, or
    one of its own stays.
    """
    plan = LmPlan(batch=16, chunk_frames=400, noise=0.6)
    drawn = [Draw(cycles, plan, "cpu")(step, 0.9) for step in range(6)]
    codes, seen = (torch.cat([getattr(chunks, name) for chunks in drawn]) for name in ("codes", "seen"))  # [B, K, T]
    wrong = seen != codes
    shares = wrong.float().mean(dim=(1, 2))  # [B]
    assert 0.05 < float(shares.mean()) < 0.3
    assert float(shares.max()) < 0.6
    firsts = wrong.any(1).int().argmax(1)  # [B], frames
    assert int(firsts.max()) > 50
    by_frame = wrong.float().mean(dim=(0, 1))  # [T]
    assert by_frame[:10].mean() < 0.1 * by_frame[200:].mean()
    shown = [{tuple(frame) for frame in row.T.tolist()} for row in codes]
    own = torch.tensor(
        [all(tuple(frame) in its for frame in row.T.tolist()) for row, its in zip(seen, shown, strict=True)]
    )
    assert 0.5 < own.float().mean() < 0.85
    runs = [_longest(row.any(0)) for row in wrong[own & (shares > 0)]]
    assert max(runs) >= 16
    stays = [(said[..., 1:] == said[..., :-1]).all(dim=1).float().mean(dim=1) for said in (seen, codes)]  # each [B]
    still = stays[0] > stays[1] + 0.05
    assert 0.15 < still.float().mean() < 0.5
    assert own[still].all()


def _longest(wrong: torch.Tensor) -> int:
    """Frames one after the other that are wrong: wrong [T] bool."""
    right_at = [-1, *(~wrong).nonzero()[:, 0].tolist(), len(wrong)]
    return max(int(after - before) - 1 for before, after in pairwise(right_at))


def test_chunks_grow() -> None:
    """Short rows and many at first, whole ones at the end, and about as many frames at every time."""
    shapes = [LmPlan(batch=8, chunk_frames=1500).shape(progress) for progress in (0.0, 0.7, 0.99)]
    assert shapes == [(24, 500), (12, 1000), (8, 1500)]


@pytest.mark.parametrize(("ratio", "passes"), [(GATE, True), (GATE - 0.01, False), (None, False)])
def test_the_gate(tmp_path: Path, ratio: float | None, passes: bool) -> None:
    """A codec that was not judged, or loses the tempo, holds the language model back."""
    run = Run(tmp_path)
    if ratio is not None:
        (tmp_path / "codec.json").write_text(json.dumps({"tempo_ratio": ratio}))
    if passes:
        check_gate(run)
    else:
        with pytest.raises(SystemExit):
            check_gate(run)


def test_an_unfinished_codec_is_not_used(tmp_path: Path) -> None:
    """Weights of a codec whose training goes on are refused, and so is none."""
    run, codec = Run(tmp_path), narrow_codec()
    with pytest.raises(FileNotFoundError):
        load_codec(codec, run)
    run.save(decoder_phase(codec, PLAN, "cpu"), step=1, elapsed_s=1.0, done=False)
    with pytest.raises(ValueError, match="not done"):
        load_codec(codec, run)
