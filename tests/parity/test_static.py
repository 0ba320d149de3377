"""Steps of fixed shape beside the decoder's own: the same tokens, fp32, on the CPU, where they run as they are.

The products are of other kernels (padded rows, masked keys), so logits differ by rounding. Greedy tokens are held to
equality up to a tie of audiocraft's, as in `test_tokens`; sampled ones to equality, which these seeds give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from gary.config import EngineConfig
from gary.engine.core import EngineCore
from gary.engine.graphs import STEPS_AHEAD, Graph, GraphedSteps
from gary.engine.model import CrossCache, Segment
from gary.engine.parts import Parts, make_parts
from gary.engine.patterns import DelayPattern
from gary.engine.request import GenerationParams
from gary.engine.runner import Runner, SlotState
from gary.engine.scheduler import Scheduler
from gary.engine.static import TEXT_BUCKETS, Buckets, StaticStep, StepShape
from gary.engine.step import SlotWork
from tests.parity.models import stereo_model, tiny_model
from tests.parity.test_tokens import GREEDY, LONG_TEXT, Ask, audiocrafts, compared, ours, token_request

SLOTS, CHUNK = 8, 64
CONFIG = EngineConfig(device="cpu", precision="fp32", slots=SLOTS, prefill_chunk=CHUNK)


@dataclass
class AtOnce:
    """A graph that is none: replaying does the work."""

    replay: Callable[[], None]


@dataclass
class Mark:
    """An event of a device that has always done all."""

    log: list[str] = field(default_factory=list)

    def record(self) -> None:
        self.log.append("record")

    def synchronize(self) -> None:
        self.log.append("synchronize")


def capture(work: Callable[[], None]) -> Graph:
    """As a capture does, runs the work before any request is there."""
    work()
    return AtOnce(work)


def with_static_steps(parts: Parts, buckets: Buckets | None = None) -> Parts:
    """The same weights and cache, stepped in fixed shapes, nothing captured."""
    steps = GraphedSteps(StaticStep(parts.decoder, SLOTS, buckets), capture, Mark)
    shape, positions = parts.decoder.weights.shape, parts.decoder.positions
    core = EngineCore(
        Runner(parts.decoder, SLOTS, positions.shape[0], str(positions.device), steps),
        Scheduler(SLOTS, 2 * SLOTS, positions.shape[0], CHUNK),
        parts.core._pattern,
        parts.limits.window_frames,
        shape.card,
    )
    return replace(parts, core=core)


@pytest.fixture(scope="module")
def reference() -> Any:
    return tiny_model()


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_parts(tiny_model(), "cpu", CONFIG)


@pytest.fixture(scope="module")
def static(parts: Parts) -> Parts:
    return with_static_steps(parts)


ASKS = [
    Ask(30, 110),
    Ask(0, 60, description="jazz"),
    Ask(50, 130, params=GenerationParams(use_sampling=False, cfg_coef=1.0)),
    Ask(20, 90, description=None),
    Ask(63, 140, description="violins and strings play an epic film score", params=replace(GREEDY, cfg_coef=7.5)),
    Ask(70, 120, description=LONG_TEXT[:200]),
    Ask(240, 300),
    Ask(39, 40),
]


def test_greedy_tokens_are_audiocrafts(reference: Any, static: Parts) -> None:
    """Guided or not, with a description or none, short and long, joining one after the other: all of them, to a tie."""
    made = ours(static, ASKS, every=9)
    equal = [compared(reference, ask, one, audiocrafts(reference, ask)) for ask, one in zip(ASKS, made, strict=True)]
    assert sum(frames == ask.frames for frames, ask in zip(equal, ASKS, strict=True)) >= len(ASKS) - 1, equal


def test_sampled_tokens_are_those_of_the_decoders_own_steps(parts: Parts, static: Parts) -> None:
    """Same seeds, same tokens, greedy rows among them and slots given on; in another order of arrival too."""
    ways = [GenerationParams(), GenerationParams(top_k=50, temperature=1.3), GenerationParams(top_p=0.9), GREEDY]
    asks = [replace(ask, params=ways[i % 4], seed=40 + i) for i, ask in enumerate(ASKS * 2)]
    expected = ours(parts, asks, every=5)
    for made, one in zip(ours(static, asks, every=5), expected, strict=True):
        assert torch.equal(made, one)
    for made, one in zip(ours(static, asks[::-1], every=7)[::-1], expected, strict=True):
        assert torch.equal(made, one)


def test_the_window_slides(parts: Parts, static: Parts) -> None:
    """Beyond 30 s a slot's next window begins anew, and its noise goes on counting."""
    asks = [Ask(1200, 1700, params=GenerationParams(), seed=3), Ask(10, 40)]
    for made, one in zip(ours(static, asks), ours(parts, asks), strict=True):
        assert torch.equal(made, one)


def test_stereo_runs_through_the_same_code() -> None:
    parts = make_parts(stereo_model(), "cpu", CONFIG)
    asks = [Ask(20, 60), Ask(0, 30, params=GenerationParams())]
    for made, one in zip(ours(with_static_steps(parts), asks), ours(parts, asks), strict=True):
        assert torch.equal(made, one)


def test_a_text_that_is_too_long_is_stepped_by_the_decoder(parts: Parts) -> None:
    """It and its neighbours, stepped in fixed shapes, draw what they draw otherwise."""
    brief = with_static_steps(parts, replace(Buckets.of(2 * SLOTS, parts.decoder.positions.shape[0]), texts=(0, 8)))
    asks = [Ask(30, 110), Ask(20, 80, description=LONG_TEXT, params=GenerationParams()), Ask(0, 50, description=None)]
    for made, one in zip(ours(brief, asks, every=4), ours(parts, asks, every=4), strict=True):
        assert torch.equal(made, one)


def test_an_aborted_request_leaves_no_trace(parts: Parts, static: Parts) -> None:
    """Not even numbers that are none in its rows of the cache, far behind where the next one attends."""
    static.core.add(token_request(static, 1000, Ask(200, 1400, description=LONG_TEXT[:300])))
    for _ in range(30):
        static.core.step()
    for keys, values in static.decoder.cache:
        keys.fill_(float("nan"))
        values.fill_(float("nan"))
    assert static.core.abort(1000)
    asks = [Ask(20, 90), Ask(0, 40, description=None)]
    for made, one in zip(ours(static, asks), ours(parts, asks), strict=True):
        assert torch.equal(made, one)


# One step by itself


def a_step(parts: Parts, sequence: torch.Tensor, cross: CrossCache | None, buckets: Buckets, row: int) -> Any:
    """Logits [K, card] of one unguided request after its first 20 positions, in the given row and shape."""
    decoder = parts.decoder
    decoder.forward(sequence[:, :20].T, [Segment(0, row, 0, 20, cross)], torch.tensor([19]))
    step = StaticStep(decoder, slots=1, buckets=buckets)
    params = GenerationParams(use_sampling=False)
    step.sequences[0, :, : sequence.shape[1]] = sequence
    step.seat(0, SlotState(sequence, cross, params, seed=0, counter=0))
    shape = step.arrange([SlotWork(0, (row,), 20, 1, samples=True)])
    from gary.engine.static import _Lanes

    return step._logits(_Lanes(*step._table[:, : shape.rows]), shape)[row].clone()


def test_padding_changes_nothing_but_rounding(parts: Parts) -> None:
    """The logits of a request, in rows, lengths and texts padded more or less, are the decoder's own within 2e-6."""
    window, rows = parts.decoder.positions.shape[0], 2 * SLOTS
    sequence = Ask(30, 31).prompt(4)  # [K, S]
    with torch.no_grad():
        cross = parts.decoder.cross_cache(parts.text.encode("drums and bass"))
        fed = [Segment(0, 5, 0, 21, cross)]
        expected = parts.decoder.forward(sequence[:, :21].T, fed, torch.tensor([20]))[0]  # [K, card]
        for lengths in ((32, window), (window,)):
            for texts in ((0, 16, 128), (128,)):
                for row in (0, 5, 15):
                    made = a_step(parts, sequence, cross, Buckets((1, 6, rows), lengths, texts), row)
                    assert float((made - expected).abs().max()) < 2e-6


def test_a_lane_that_nobody_has_writes_nowhere(parts: Parts) -> None:
    """Sequences, and every position of the cache that is ever fed, stay as they are in a step without work."""
    for keys, values in parts.decoder.cache:
        keys.normal_()
        values.normal_()
    before = [(keys.clone(), values.clone()) for keys, values in parts.decoder.cache]
    step = StaticStep(parts.decoder, SLOTS)
    sequences, table = step.sequences.clone(), step._table.clone()
    step.compute(step.buckets.shapes()[0])
    for now, then in zip(parts.decoder.cache, before, strict=True):
        for tensor, other in zip(now, then, strict=True):
            assert torch.equal(tensor[:, :, :-1], other[:, :, :-1])
            assert not torch.equal(tensor[:, :, -1], other[:, :, -1])
    assert torch.equal(step.sequences, sequences)
    assert torch.equal(step._table, table)


# Shapes, graphs, buffers


@pytest.mark.parametrize("rows", [1, 2, 3, 32, 48])
def test_every_need_has_its_least_bucket(rows: int) -> None:
    """The shape chosen holds what is needed, and none that is smaller does."""
    buckets = Buckets.of(rows, 1504)
    assert buckets.rows[-1] == rows
    assert buckets.lengths == (256, 512, 768, 1024, 1280, 1504)
    for needed in range(1, rows + 1):
        assert buckets.shape(needed, 1, 0).rows == min(size for size in buckets.rows if size >= needed)
    assert [buckets.shape(1, length, 0).length for length in (1, 256, 257, 1281, 1504)] == [256, 256, 512, 1504, 1504]
    assert [buckets.shape(1, 1, text).text for text in (0, 1, 32, 33)] == [0, 32, 32, 128]
    assert len(buckets.shapes()) == len(buckets.rows) * 6 * len(TEXT_BUCKETS)
    assert buckets.shapes()[0] == StepShape(rows, 1504, 128)


@dataclass
class Recorder:
    """Captures work without running it, and notes what is replayed, in order."""

    shapes: list[StepShape] = field(default_factory=list)
    replayed: list[StepShape] = field(default_factory=list)

    def capture(self, work: Any) -> Graph:
        (shape,) = work.args
        self.shapes.append(shape)

        def replay() -> None:
            self.replayed.append(shape)
            work()

        return AtOnce(replay)


def state(parts: Parts, frames: int, cross: CrossCache | None = None) -> SlotState:
    sequence = DelayPattern((0, 1, 2, 3)).to_sequence(torch.full((4, frames), -1), 2048)
    return SlotState(sequence, cross, GREEDY, seed=0, counter=0)


def seated(parts: Parts, steps: GraphedSteps, slots: Sequence[int]) -> None:
    for slot in slots:
        made = state(parts, 1000)
        steps.sequences[slot, :, : made.sequence.shape[1]] = made.sequence.clamp(min=0)
        steps.seat(slot, made)


def test_each_step_replays_the_graph_of_its_shape(parts: Parts) -> None:
    """All shapes are captured once, largest first, before any step; rows and lengths beyond a bucket take the next."""
    recorder = Recorder()
    steps = GraphedSteps(StaticStep(parts.decoder, SLOTS), recorder.capture, Mark)
    captured = list(recorder.shapes)
    assert captured == sorted(captured, reverse=True)
    seated(parts, steps, [0, 1])
    for start in (254, 255, 256):
        steps.run([SlotWork(0, (0, 1), start, 1, samples=True)])
    steps.run([SlotWork(0, (0, 1), 257, 1, samples=True), SlotWork(1, (4,), 3, 1, samples=True)])
    assert recorder.replayed == [
        StepShape(2, 256, 0),
        StepShape(2, 256, 0),
        StepShape(2, 512, 0),
        StepShape(8, 512, 0),
    ]
    assert recorder.shapes == captured


def test_buffers_keep_their_addresses(parts: Parts) -> None:
    """Whoever comes and goes, a step reads and writes the memory that was there when graphs were captured."""
    step = StaticStep(parts.decoder, SLOTS)

    def addresses() -> list[int]:
        tensors = [step.sequences, step._table, step._counters, step._position_table, *vars(step._params).values()]
        pairs = [*step._cache, *step._text]
        return [tensor.data_ptr() for tensor in (*tensors, *(one for pair in pairs for one in pair))]

    before = addresses()
    steps = GraphedSteps(step, capture, Mark)
    seated(parts, steps, range(SLOTS))
    for start in range(5, 9):
        steps.run([SlotWork(slot, (2 * slot, 2 * slot + 1), start, 1, samples=True) for slot in range(start - 4)])
    assert addresses() == before


def test_nothing_is_sent_while_the_company_stays(parts: Parts) -> None:
    """The device moves positions on by itself: the table is written when somebody joins or leaves, and then alone."""
    step = StaticStep(parts.decoder, SLOTS)
    sent: list[int] = []

    class Telling(StaticStep):
        def _send(self, works: Sequence[SlotWork]) -> None:
            sent.append(len(works))
            super()._send(works)

    step.__class__ = Telling
    steps = GraphedSteps(step, capture, Mark)
    seated(parts, steps, [0, 1])

    def work(slot: int, start: int) -> SlotWork:
        return SlotWork(slot, (slot,), start, 1, samples=True)

    for start in range(4):
        steps.run([work(0, start)])
    for start in range(4, 7):
        steps.run([work(0, start), work(1, start + 50)])
    assert step._table[0, :2].tolist() == [7, 57]
    steps.run([work(1, 57)])
    assert sent == [1, 2, 1]
    seated(parts, steps, [1])  # a new request in the same slot, by chance at the position that the former would have
    steps.run([work(1, 58)])
    assert sent == [1, 2, 1, 1]


def test_the_host_runs_ahead_by_so_many_steps_and_no_more(parts: Parts) -> None:
    """Before each step the host waits for the mark of the step `STEPS_AHEAD` before it, and for no other."""
    marks: list[Mark] = []
    steps = GraphedSteps(StaticStep(parts.decoder, SLOTS), capture, lambda: marks.append(Mark()) or marks[-1])  # type: ignore[func-returns-value]
    seated(parts, steps, [0])
    for start in range(STEPS_AHEAD + 2):
        steps.run([SlotWork(0, (0,), start, 1, samples=True)])
    once, twice = ["synchronize", "record"], ["synchronize", "record"] * 2
    assert [mark.log for mark in marks] == [twice, twice] + [once] * (STEPS_AHEAD - 2)
