"""Steps of fixed shape, captured once and replayed: one CUDA graph for each shape, all of them on one pool of memory.

All graphs are captured before the first request. Captured when first needed, each would make everybody who decodes wait
for it, and memory would go on growing until every shape has come by.

The host runs ahead of the device by `STEPS_AHEAD` steps at most: enough that the device never waits for the host, few
enough that an abort, a newcomer and a report of progress mean what they say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch

from gary.engine.model import CrossCache, Decoder
from gary.engine.runner import SlotState
from gary.engine.static import StaticStep, StepShape
from gary.engine.step import SlotWork

STEPS_AHEAD = 8


class Graph(Protocol):
    """Work that was captured; `torch.cuda.CUDAGraph` is one."""

    def replay(self) -> None: ...


class Event(Protocol):
    """A mark in the device's queue; `torch.cuda.Event` is one."""

    def record(self) -> None: ...

    def synchronize(self) -> None:
        """Waits for what was recorded; at once where nothing was."""
        ...


Capture = Callable[[Callable[[], None]], Graph]


class GraphedSteps:
    """Fulfils `gary.engine.runner.Steps`.

    Args:
        step: what is captured; its buffers keep their addresses.
        capture: makes a graph of a piece of work that may be run any number of times.
        make_event: a mark in the queue that graphs are replayed in.
    """

    def __init__(self, step: StaticStep, capture: Capture, make_event: Callable[[], Event]) -> None:
        self._step = step
        # Largest first, so that the others find their memory in the pool.
        self._graphs: dict[StepShape, Graph] = {
            shape: capture(partial(step.compute, shape)) for shape in step.buckets.shapes()
        }
        self._marks = [make_event() for _ in range(STEPS_AHEAD)]
        self._count = 0

    @property
    def sequences(self) -> torch.Tensor:
        return self._step.sequences

    def serves(self, cross: CrossCache | None) -> bool:
        return self._step.serves(cross)

    def seat(self, slot: int, state: SlotState) -> None:
        self._step.seat(slot, state)

    def run(self, works: Sequence[SlotWork]) -> None:
        """Queues a step; waits only for the one that was queued `STEPS_AHEAD` steps ago."""
        graph = self._graphs[self._step.arrange(works)]
        mark = self._marks[self._count % len(self._marks)]
        mark.synchronize()
        graph.replay()
        mark.record()
        self._count += 1


class CudaCapture:
    """Captures work on the current device. All graphs of one instance share one pool of memory.

    None of them may have a result that outlives its replay: the next replay, of whichever graph, writes over it.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def __call__(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()  # libraries set themselves up at their first call, which no graph may hold
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: another model of this replica may be at work.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph


def graphed_steps(decoder: Decoder, slots: int) -> GraphedSteps:
    """Graphs of every shape for a decoder on CUDA; takes some tens of milliseconds a graph.

    Raises:
        torch.OutOfMemoryError, torch.AcceleratorError: to be translated by `device_faults_translated`.
    """
    return GraphedSteps(StaticStep(decoder, slots), CudaCapture(), torch.cuda.Event)
