"""Takes of one request against solo runs of their seeds, bit for bit; and that they share the work on their prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from gary.config import EngineConfig
from gary.engine.core import EngineCore, TokenRequest
from gary.engine.linear import Precision, check_precision
from gary.engine.parts import Parts, make_parts
from gary.engine.request import GenerationParams
from gary.engine.runner import Runner
from gary.engine.scheduler import Scheduler
from gary.engine.step import StepPlan
from gary.errors import FatalError
from tests.parity.models import stereo_model, tiny_model
from tests.parity.test_static import with_static_steps
from tests.parity.test_tokens import GREEDY, LONG_TEXT, Ask, token_request

SLOTS, CHUNK, TAKES = 8, 64, 3
SAMPLED = GenerationParams()


class CountingRunner(Runner):
    """Counts the positions that are fed for newcomers, a guided one's once."""

    prefilled = 0

    def run(self, plan: StepPlan) -> None:
        self.prefilled += plan.prefill.length if plan.prefill else 0
        super().run(plan)


def parts_of(model: Any, precision: Precision) -> Parts:
    config = EngineConfig(device="cpu", precision=precision, slots=SLOTS, prefill_chunk=CHUNK)
    return make_parts(model, "cpu", config)


def counted(parts: Parts, slots: int = SLOTS) -> tuple[Parts, CountingRunner]:
    """The same decoder under a core of its own."""
    window = parts.decoder.positions.shape[0]
    runner = CountingRunner(parts.decoder, slots, window, "cpu")
    scheduler = Scheduler(slots, 2 * slots, window, CHUNK)
    shape = parts.decoder.weights.shape
    core = EngineCore(runner, scheduler, parts.core._pattern, parts.limits.window_frames, shape.card)
    return replace(parts, core=core), runner


def takes_of(parts: Parts, ask: Ask, takes: int = TAKES) -> list[TokenRequest]:
    """They share a prompt and its description's keys, as the engine has it."""
    first = token_request(parts, 0, ask)
    return [replace(first, key=key, seed=ask.seed + key, family=0) for key in range(takes)]


def together(parts: Parts, requests: list[TokenRequest]) -> list[torch.Tensor]:
    """Codes [K, T] of each, all added at once."""
    for request in requests:
        parts.core.add(request)
    return run_out(parts, len(requests))


def run_out(parts: Parts, count: int) -> list[torch.Tensor]:
    codes: dict[int, torch.Tensor] = {}
    while parts.core.busy:
        for drawn in parts.core.step():
            assert drawn.error is None
            if drawn.finished:
                codes[drawn.key] = parts.core.codes(drawn.key, 0, drawn.frames).clone()
                parts.core.forget(drawn.key)
    assert len(codes) == count
    return [codes[key] for key in sorted(codes)]


def alone(parts: Parts, request: TokenRequest) -> torch.Tensor:
    """[K, T] of the same request without relatives or company."""
    (made,) = together(parts, [replace(request, family=None)])
    return made


def assert_each_as_alone(parts: Parts, ask: Ask, solo: Parts | None = None) -> list[torch.Tensor]:
    requests = takes_of(parts, ask)
    made = together(parts, requests)
    for take, request in zip(made, requests, strict=True):
        assert torch.equal(take, alone(solo or parts, request))
    return made


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def parts(request: pytest.FixtureRequest) -> Parts:
    try:
        check_precision(request.param, "cpu")
    except FatalError as error:
        pytest.skip(str(error))
    return parts_of(tiny_model(), request.param)


@pytest.fixture(scope="module")
def fp32() -> Parts:
    return parts_of(tiny_model(), "fp32")


ASKS = {
    "a long prompt": Ask(300, 380),
    "the last chunk is full": Ask(127, 200),
    "the last chunk is one position": Ask(128, 200),
    "a prompt of one chunk": Ask(40, 100),
    "text alone": Ask(0, 60),
    "unguided": Ask(150, 220, params=replace(SAMPLED, cfg_coef=1.0)),
    "no description": Ask(150, 220, description=None),
    "a long text": Ask(150, 220, description=LONG_TEXT),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
def test_a_take_is_the_solo_run_of_its_seed(parts: Parts, ask: Ask) -> None:
    """Every token of each take, sampled; and no two are the same music."""
    made = assert_each_as_alone(parts, replace(ask, params=replace(SAMPLED, cfg_coef=ask.params.cfg_coef)))
    assert not torch.equal(made[0], made[1])


def test_greedy_takes_are_one_music(parts: Parts) -> None:
    """They draw nothing, so their seeds make no difference: what was copied serves as what was fed."""
    first, *others = assert_each_as_alone(parts, Ask(300, 400, params=GREEDY))
    assert all(torch.equal(first, other) for other in others)


def test_steps_of_fixed_shape_share_too(fp32: Parts) -> None:
    """The rows copied into are stepped as the others are, in slots and rows given on."""
    static = with_static_steps(fp32)
    for ask in (ASKS["a long prompt"], ASKS["unguided"], ASKS["no description"]):
        assert_each_as_alone(static, replace(ask, params=replace(SAMPLED, cfg_coef=ask.params.cfg_coef)))


def test_takes_by_torchs_attention() -> None:
    """Where numba is not, over keys and values in fp32."""
    parts = parts_of(tiny_model(), "fp32")
    parts.decoder._own_attention = False
    assert_each_as_alone(parts, replace(ASKS["a long prompt"], params=SAMPLED))


def test_stereo_takes() -> None:
    assert_each_as_alone(parts_of(stereo_model(), "fp32"), Ask(150, 200, params=SAMPLED))


def test_beyond_the_window_each_goes_its_own_way(fp32: Parts) -> None:
    """Where windows slide, what has been drawn differs from take to take, and nothing of it is shared."""
    assert_each_as_alone(fp32, Ask(1300, 1700, params=SAMPLED))


def test_takes_among_strangers(fp32: Parts) -> None:
    """Two families and others between them, added in turns: each take as alone."""
    asks = [Ask(300, 380, params=SAMPLED), Ask(200, 290, description="jazz", params=SAMPLED, seed=50)]
    families = [
        [replace(each, key=10 * number + each.key, family=10 * number) for each in takes_of(fp32, ask)]
        for number, ask in enumerate(asks)
    ]
    strangers = [token_request(fp32, 100 + number, Ask(90, 150, seed=number)) for number in range(TAKES)]
    requests = [request for turn in zip(*families, strangers, strict=True) for request in turn]
    made = together(fp32, requests)
    for take, request in zip(made, sorted(requests, key=lambda each: each.key), strict=True):
        assert torch.equal(take, alone(fp32, request))


# ---- what is shared, and what when there is nothing to share ----


@pytest.mark.parametrize(("prompt_frames", "last_chunk"), [(300, 45), (127, 64), (128, 1), (40, 41), (0, 1)])
def test_one_prefill_serves_all(fp32: Parts, prompt_frames: int, last_chunk: int) -> None:
    """The first feeds its whole prompt, every other only the last chunk of it."""
    parts, runner = counted(fp32)
    together(parts, takes_of(parts, Ask(prompt_frames, prompt_frames + 40), TAKES))
    assert runner.prefilled == prompt_frames + 1 + (TAKES - 1) * last_chunk


def test_a_late_take_finds_its_relative_far_on(fp32: Parts) -> None:
    """Where there is no slot for it at first: it takes from whoever of them still runs when it gets one."""
    parts, runner = counted(fp32, slots=2)
    stranger = token_request(parts, 9, Ask(0, 30))
    requests = takes_of(parts, Ask(300, 500, params=SAMPLED), 2)
    _, late, _ = together(parts, [stranger, *requests])
    assert runner.prefilled == 1 + 301 + 45
    assert torch.equal(late, alone(parts, requests[1]))


def test_who_finds_nobody_left_feeds_all(fp32: Parts) -> None:
    """With one slot, each take comes when the one before it is gone: a whole prefill each, and the same music."""
    parts, runner = counted(fp32, slots=1)
    requests = takes_of(parts, Ask(150, 200, params=SAMPLED))
    made = together(parts, requests)
    assert runner.prefilled == TAKES * 151
    for take, request in zip(made, requests, strict=True):
        assert torch.equal(take, alone(parts, request))


@pytest.mark.parametrize("steps", [0, 2, 5, 6, 40])
def test_the_first_may_go(fp32: Parts, steps: int) -> None:
    """Aborted before, while or after its prompt is fed: the others make what they make alone."""
    parts, _ = counted(fp32)
    requests = takes_of(parts, Ask(300, 380, params=SAMPLED))
    for request in requests:
        parts.core.add(request)
    for _ in range(steps):
        parts.core.step()
    assert parts.core.abort(0)
    for take, request in zip(run_out(parts, TAKES - 1), requests[1:], strict=True):
        assert torch.equal(take, alone(parts, request))


def test_no_trace_of_former_guests(fp32: Parts) -> None:
    """In a cache full of numbers that are none, what is copied is all that a take finds there."""
    for keys, values in fp32.decoder.cache:
        keys.fill_(float("nan"))
        values.fill_(float("nan"))
    assert_each_as_alone(fp32, Ask(200, 260, params=SAMPLED), solo=parts_of(tiny_model(), "fp32"))
