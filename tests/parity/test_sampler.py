"""The sampler: each row as if alone; audiocraft's guidance and distributions; noise without pattern.

All is seeded, so a test that passes goes on passing. Before the seeds were fixed, each statistical test had the chance
FALSE_ALARM to fail a right sampler; a test of m comparisons holds each of them to FALSE_ALARM / m (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gary.engine.imports import audiocraft_imports
from gary.engine.request import GenerationParams
from gary.engine.sampler import Method, RowParams, guide, method_for, sample, uniforms

with audiocraft_imports():
    from audiocraft.models.lm import LMModel
    from audiocraft.utils import utils

FALSE_ALARM = 1e-6
K, CARD = 4, 2048
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]

GREEDY = GenerationParams(use_sampling=False)
WAYS = {
    "greedy": GREEDY,
    "cold": GenerationParams(temperature=0.0),
    "plain": GenerationParams(top_k=0),
    "one": GenerationParams(top_k=1),
    "top_k": GenerationParams(top_k=50),
    "top_k of all": GenerationParams(top_k=CARD),
    "hot": GenerationParams(top_k=250, temperature=1.7),
    "cool": GenerationParams(top_k=250, temperature=0.3),
    "top_p": GenerationParams(top_p=0.9),
    "small top_p": GenerationParams(top_p=0.2, temperature=0.8),
    "top_p of all": GenerationParams(top_p=1.0),
    "top_p over top_k": GenerationParams(top_k=3, top_p=0.7),
}
DRAWN = {name: params for name, params in WAYS.items() if params.use_sampling and params.temperature}


def random_logits(rows: int, seed: int, card: int = CARD) -> torch.Tensor:
    """[n, K, card], some of them equal to others."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, K, card, generator=generator) * 2
    return (logits * 16).round() / 16


# Each row as if alone


@dataclass(frozen=True)
class Batch:
    logits: torch.Tensor  # [n, K, card]
    rows: RowParams
    steps: torch.Tensor  # [n]

    def draw(self, index: Sequence[int], method: Method = Method.TOP_P) -> torch.Tensor:
        """Tokens [m, K] of a batch of these rows alone."""
        at = torch.tensor(index, device=self.logits.device)
        rows = self.rows.at(at)
        return sample(self.logits[at], rows, uniforms(rows.seed, self.steps[at], K), method)


@cache
def ragged_batch(device: str) -> Batch:
    ways = list(WAYS.values())
    return Batch(
        logits=random_logits(len(ways), seed=1).to(device),
        rows=RowParams.of(ways, [2**63 - 1 - 977 * row for row in range(len(ways))], CARD, device),
        steps=torch.arange(len(ways), device=device) * 131,
    )


@cache
def full_draw(device: str) -> torch.Tensor:
    return ragged_batch(device).draw(range(len(WAYS)))


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, max_examples=50)  # a step may wait for a busy core
@given(index=st.lists(st.integers(0, len(WAYS) - 1), min_size=1, max_size=24))
def test_a_row_draws_the_same_tokens_in_any_company(device: str, index: list[int]) -> None:
    """Rows in any order, left out or doubled, alone or among 24: each draws what it draws in the full batch."""
    assert torch.equal(ragged_batch(device).draw(index), full_draw(device)[index])


@pytest.mark.parametrize("name", WAYS)
def test_the_method_of_the_batch_is_no_matter(name: str) -> None:
    """A row draws the same tokens by the least method that serves it and by every fuller one."""
    batch, row = ragged_batch("cpu"), list(WAYS).index(name)
    fullest = batch.draw([row])
    for method in Method:
        if method >= method_for([WAYS[name]]):
            assert torch.equal(batch.draw([row], method), fullest)


@pytest.mark.parametrize("name", ["greedy", "cold"])
def test_greedy_rows_take_the_largest_logit_among_those_that_sample(name: str) -> None:
    """Without sampling, or at temperature 0, a row takes its largest logit, also where its neighbours sample."""
    row = list(WAYS).index(name)
    assert method_for([WAYS[name]]) is Method.GREEDY
    assert torch.equal(full_draw("cpu")[row], ragged_batch("cpu").logits[row].argmax(-1))


def test_every_input_matters() -> None:
    """Another seed, another step and other logits each change what is drawn; codebooks draw apart from each other."""
    rows = RowParams.of([GenerationParams()] * 2, [5, 6], CARD)
    logits = random_logits(1, seed=2)[:, :1].expand(2, K, CARD).contiguous()  # alike in all rows and codebooks
    steps = torch.tensor([7, 7])
    tokens = sample(logits, rows, uniforms(rows.seed, steps, K), Method.TOP_K)
    assert len(set(tokens.flatten().tolist())) == 2 * K
    later = sample(logits, rows, uniforms(rows.seed, steps + 1, K), Method.TOP_K)
    other = sample(random_logits(2, seed=3), rows, uniforms(rows.seed, steps, K), Method.TOP_K)
    assert (later != tokens).all()
    assert (other != tokens).all()


def test_rows_are_overwritten_in_place() -> None:
    """A newcomer's parameters take the place of its slot's, in the same memory, and leave the others alone."""
    rows = RowParams.of([WAYS["top_k"], WAYS["greedy"], WAYS["top_p"]], [1, 2, 3], CARD)
    memory = rows.top_k.data_ptr()
    rows.write(1, RowParams.of([WAYS["hot"]], [9], CARD))
    assert rows.top_k.data_ptr() == memory
    assert rows.top_k.tolist() == [50, 250, CARD]
    assert rows.seed.tolist() == [1, 9, 3]
    assert rows.greedy.tolist() == [False, False, False]
    assert rows.temperature[1] == torch.tensor(1.7)


def test_logits_that_are_no_numbers_stay_in_their_row() -> None:
    """A row of NaN or infinity still gives tokens that exist, and its neighbours draw what they draw alone."""
    batch, everyone = ragged_batch("cpu"), full_draw("cpu")
    for value in (math.nan, math.inf, -math.inf):
        for broken in range(len(WAYS)):
            logits = batch.logits.clone()
            logits[broken] = value
            tokens = Batch(logits, batch.rows, batch.steps).draw(range(len(WAYS)))
            assert ((tokens >= 0) & (tokens < CARD)).all()
            others = [row for row in range(len(WAYS)) if row != broken]
            assert torch.equal(tokens[others], everyone[others])


# Against audiocraft


@dataclass
class FixedLogits:
    """What `LMModel._sample_next_token` asks of a model, with logits that do not depend on what is fed."""

    logits: torch.Tensor  # [2B, K, S, card], the conditional ones first
    cfg_coef: float = 3.0
    two_step_cfg: bool = False
    _fsdp: None = None

    def __call__(self, _sequence: torch.Tensor, **_conditions: object) -> torch.Tensor:
        return self.logits


def audiocraft_draw(cond: torch.Tensor, uncond: torch.Tensor, params: GenerationParams) -> torch.Tensor:
    """Tokens [B, K] drawn by audiocraft's own code from guided logits [B, K, card]."""
    model = cast(Any, FixedLogits(torch.cat([cond, uncond])[:, :, None]))
    sequence = torch.zeros(cond.shape[0], K, 1, dtype=torch.int64)
    drawn = LMModel._sample_next_token(
        model,
        sequence,
        {"description": (cond, cond)},  # any condition: there is one
        {},
        use_sampling=params.use_sampling,
        temp=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        cfg_coef=params.cfg_coef,
    )
    return drawn[..., 0]


def our_draw(cond: torch.Tensor, uncond: torch.Tensor, params: GenerationParams, seed: int) -> torch.Tensor:
    """The same by ours: rows are steps of one request."""
    count = cond.shape[0]
    rows = RowParams.of([params] * count, [seed] * count, cond.shape[-1])
    noise = uniforms(rows.seed, torch.arange(count), K)
    return sample(guide(cond, uncond, rows.cfg_coef), rows, noise, method_for([params]))


def target(logits: torch.Tensor, params: GenerationParams) -> npt.NDArray[np.float64]:
    """What audiocraft draws from, [.., card]: its formulas, in its precision."""
    probs = torch.softmax(logits / params.temperature, dim=-1)
    if params.top_p > 0:
        ranked, index = torch.sort(probs, dim=-1, descending=True, stable=True)
        ranked[torch.cumsum(ranked, dim=-1) - ranked > params.top_p] = 0
        probs = torch.zeros_like(probs).scatter(-1, index, ranked)
    elif params.top_k > 0:
        utils.sample_top_k(probs, params.top_k)  # which leaves what it draws from in its argument
    exact = probs.numpy().astype(np.float64)
    return cast(npt.NDArray[np.float64], exact / exact.sum(-1, keepdims=True))


@pytest.mark.parametrize("cfg_coef", [0.0, 1.0, 3.0, -2.5, 3.3])
def test_guidance_equals_audiocrafts_bit_for_bit(cfg_coef: float) -> None:
    """Guided logits are audiocraft's expression exactly; so are the greedy tokens of its own code."""
    cond, uncond = torch.randn(2, 32, K, CARD, generator=torch.Generator().manual_seed(4))
    guided = guide(cond, uncond, torch.full((32,), cfg_coef))
    assert torch.equal(guided, uncond + (cond - uncond) * cfg_coef)
    params = GenerationParams(use_sampling=False, cfg_coef=cfg_coef)
    assert torch.equal(our_draw(cond, uncond, params, seed=0), audiocraft_draw(cond, uncond, params))


def test_guidance_without_condition_changes_nothing() -> None:
    """A row that stands for its own unconditional one keeps its logits, whatever the coefficient."""
    logits = random_logits(3, seed=5)
    assert torch.equal(guide(logits, logits, torch.tensor([3.0, -7.1, 100.0])), logits)


@pytest.mark.parametrize("card", [400, CARD])
@pytest.mark.parametrize("name", DRAWN)
def test_noise_is_mapped_to_tokens_in_audiocrafts_proportion(name: str, card: int) -> None:
    """Over an even grid of noise each token comes up as often as its probability says, to one count; ties included."""
    params, grid = WAYS[name], 4096
    params = GenerationParams(**{**vars(params), "top_k": min(params.top_k, card)})
    for seed in range(2):
        logits = random_logits(1, seed, card)[:, :1]  # [1, 1, card]
        rows = RowParams.of([params] * grid, [0] * grid, card)
        noise = (torch.arange(grid, dtype=torch.float64)[:, None] + 0.5) / grid
        tokens = sample(logits.expand(grid, 1, card), rows, noise, method_for([params]))
        counts = np.bincount(tokens.flatten().numpy(), minlength=card)
        expected = target(logits[0, 0], params) * grid
        assert np.abs(counts - expected).max() < 1 + 1e-3
        assert (tokens.diff(dim=0) >= 0).all()  # so that the cumulated counts are right too
        assert np.abs(np.cumsum(counts) - np.cumsum(expected)).max() < 1 + 1e-2


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.99, 0.999])
def test_top_p_keeps_the_very_tokens_that_audiocraft_keeps(top_p: float) -> None:
    """The cut falls behind the same token as in its float32 sums: noise next to 1 draws the last that it keeps."""
    params = GenerationParams(top_p=top_p, top_k=0)
    logits = random_logits(64, seed=9) + torch.randn(64, K, CARD, generator=torch.Generator().manual_seed(10)) / 100
    by_size = logits.sort(dim=-1, descending=True).values  # so that the last token by number is the last by size
    kept = torch.from_numpy(target(by_size, params)) > 0
    rows = RowParams.of([params] * 64, [0] * 64, CARD)
    last = sample(by_size, rows, torch.full((64, K), 1 - 2.0**-52, dtype=torch.float64), Method.TOP_P)
    assert torch.equal(last, kept.sum(-1) - 1)


@pytest.mark.parametrize("name", DRAWN)
def test_the_ends_of_the_noise_draw_the_first_and_the_last_token_kept(name: str) -> None:
    """Noise 0, and the largest below 1, draw tokens that are kept: what has no probability is never drawn."""
    params, logits = WAYS[name], random_logits(16, seed=11)
    kept = target(logits, params) >= 2.0**-50
    rows = RowParams.of([params] * 16, [0] * 16, CARD)
    ends = [
        sample(logits, rows, torch.full((16, K), noise, dtype=torch.float64), Method.TOP_P)
        for noise in (0.0, 1 - 2.0**-52)
    ]
    assert (ends[0].numpy() == kept.argmax(-1)).all()
    assert (ends[1].numpy() == CARD - 1 - kept[..., ::-1].argmax(-1)).all()


def merged(expected: npt.NDArray[np.float64], least: float) -> npt.NDArray[np.int64]:
    """The bin of every token: those too rare for chi-square share theirs."""
    bins = np.zeros(len(expected), dtype=np.int64)
    number, mass = 0, 0.0
    for token in np.argsort(-expected):
        bins[token] = number
        mass += expected[token]
        if mass >= least:
            number, mass = number + 1, 0.0
    return np.minimum(bins, max(0, number - 1))  # what is left over goes with the last


@pytest.mark.parametrize("name", DRAWN)
def test_distribution_is_audiocrafts(name: str) -> None:
    """20,000 draws of each codebook fit audiocraft's probabilities (chi-square), and none has probability 0."""
    params, draws = DRAWN[name], 20_000
    card = 256
    params = GenerationParams(**{**vars(params), "top_k": min(params.top_k, card)})
    logits = random_logits(1, seed=6, card=card)  # [1, K, card]
    tokens = our_draw(logits.expand(draws, K, card), logits.expand(draws, K, card), params, seed=20260802)
    for codebook in range(K):
        expected = target(logits[0, codebook], params) * draws
        counts = np.bincount(tokens[:, codebook].numpy(), minlength=card)
        assert not counts[expected == 0].any()
        assert chi_square_p(counts, expected) > FALSE_ALARM / K


def chi_square_p(counts: npt.NDArray[np.int64], expected: npt.NDArray[np.float64]) -> float:
    """The chance of a fit as bad as this one or worse."""
    bins = merged(expected, least=20)
    seen, due = np.bincount(bins, counts), np.bincount(bins, expected)
    if len(due) < 2:
        return 1.0  # one token has it all
    return float(stats.chi2.sf(((seen - due) ** 2 / due).sum(), df=len(due) - 1))


@pytest.mark.parametrize("name", ["plain", "top_k", "hot", "cool", "top_p", "small top_p", "top_p over top_k"])
def test_draws_are_like_those_of_audiocrafts_own_sampler(name: str) -> None:
    """10,000 guided draws of each codebook by its code and by ours are of one distribution (two-sample chi-square)."""
    params, draws, card = WAYS[name], 10_000, 256
    cond, uncond = random_logits(1, seed=7, card=card) / 8, random_logits(1, seed=8, card=card) / 8
    cond, uncond = cond.expand(draws, K, card), uncond.expand(draws, K, card)
    ours = our_draw(cond, uncond, params, seed=77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        reference = audiocraft_draw(cond, uncond, params)
    for codebook in range(K):
        pair = [np.bincount(tokens[:, codebook].numpy(), minlength=card) for tokens in (ours, reference)]
        bins = merged((pair[0] + pair[1]) / 2, least=20)
        table = np.stack([np.bincount(bins, counts) for counts in pair])
        assert table.shape[1] > 1
        assert stats.chi2_contingency(table, correction=False).pvalue > FALSE_ALARM / K


# The noise


def test_noise_is_splitmix64() -> None:
    """The numbers published for SplitMix64 come out: state 1234567, which is what some seed is mixed to."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    seed = _unmixed(1234567)
    noise = uniforms(torch.tensor([seed]), torch.tensor([0]), 4)
    assert noise[0].tolist() == [(bits >> 12) * 2.0**-52 for bits in published]


def _unmixed(state: int) -> int:
    """The seed whose mixed state is this, in Python's own integers; signed as int64."""
    mask = 2**64 - 1

    def unshifted(value: int, bits: int) -> int:
        found = value
        for _ in range(64 // bits):
            found = value ^ (found >> bits)
        return found

    state = unshifted(state, 31) * pow(0x94D049BB133111EB, -1, 2**64) & mask
    state = unshifted(state, 27) * pow(0xBF58476D1CE4E5B9, -1, 2**64) & mask
    state = unshifted(state, 30)
    return state - 2**64 if state >= 2**63 else state


@pytest.mark.parametrize("device", DEVICES)
def test_noise_of_a_whole_request_equals_noise_step_by_step(device: str) -> None:
    """Seeds and steps broadcast, and a number depends on its own seed, step and codebook alone, on every device."""
    seeds, steps = torch.tensor([0, 1, 2**63 - 1]), torch.tensor([0, 1, 1503, 10**6])
    table = uniforms(seeds[:, None].to(device), steps.to(device), K).cpu()  # [n, S, K]
    for row, seed in enumerate(seeds):
        for column, step in enumerate(steps):
            assert torch.equal(table[row, column], uniforms(seed[None], step[None], K)[0])


AXES = {"seed": 0, "step": 1, "codebook": 2}


def noise_table() -> npt.NDArray[np.float64]:
    """[500 seeds in a row, 400 steps, 4 codebooks]: 800,000 numbers."""
    return cast(npt.NDArray[np.float64], uniforms(torch.arange(500)[:, None], torch.arange(400), K).numpy())


def test_noise_is_uniform() -> None:
    """In 1000 cells of [0, 1), over everything and for each codebook; and its low bits are even too (chi-square)."""
    table = noise_table()
    samples = [table.ravel(), *(table[..., codebook].ravel() for codebook in range(K)), table.ravel() * 2**20 % 1]
    for numbers in samples:
        counts = np.histogram(numbers, bins=1000, range=(0, 1))[0]
        assert stats.chisquare(counts).pvalue > FALSE_ALARM / len(samples)
    assert table.min() >= 0
    assert table.max() < 1


def test_each_seed_and_each_step_is_uniform_by_itself() -> None:
    """The chi-squares of the 500 seeds, and of the 400 steps, are spread as chi-squares are (Kolmogorov-Smirnov)."""
    table = noise_table()
    for axis in ("seed", "step"):
        slices = np.moveaxis(table, AXES[axis], 0).reshape(table.shape[AXES[axis]], -1)
        chances = [stats.chisquare(np.histogram(one, bins=16, range=(0, 1))[0]).pvalue for one in slices]
        # counts are whole numbers, but so many of them that the statistic is as good as continuous
        assert stats.kstest(chances, "uniform").pvalue > FALSE_ALARM / 2


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("distance", [1, 2, 3])
def test_neighbouring_counters_are_independent(axis: str, distance: int) -> None:
    """Pairs at a distance along seeds, steps or codebooks fill 32 x 32 cells evenly, and are not correlated."""
    table = noise_table()
    ahead = np.swapaxes(table, 0, AXES[axis])
    first, second = ahead[:-distance].ravel(), ahead[distance:].ravel()
    cells = np.histogram2d(first, second, bins=32, range=((0, 1), (0, 1)))[0]
    assert stats.chisquare(cells.ravel()).pvalue > FALSE_ALARM / 2
    correlation = ((first - 0.5) * (second - 0.5)).mean() * 12
    assert 2 * stats.norm.sf(abs(correlation) * math.sqrt(first.size)) > FALSE_ALARM / 2
