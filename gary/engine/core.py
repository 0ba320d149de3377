"""The engine's loop on tokens: requests are added, step by step their frames come into being, and they leave.

It knows codes, not audio, and runs in whichever thread calls it. A step is four verbs: plan, run (it draws), advance,
collect.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from gary.engine.device import is_device_fault
from gary.engine.model import CrossCache
from gary.engine.patterns import UNKNOWN, DelayPattern
from gary.engine.request import GenerationParams
from gary.engine.runner import Runner, SlotState
from gary.engine.scheduler import Admission, Scheduler
from gary.engine.stats import Occupancy
from gary.engine.step import SlotWork, StepPlan


@dataclass(frozen=True)
class TokenRequest:
    """Codes to be continued.

    Attributes:
        key: the caller's handle; unique among those under way.
        prompt: [K, T] int64, T may be 0.
        frames: of the answer, prompt included.
        cross: None for the null condition, on which guidance has no effect.
        stride_frames: how far the window slides where the answer is longer than it.
        family: those of one family have the same prompt, description and guidance, and share the work on it; None for
            a request by itself.
    """

    key: int
    prompt: torch.Tensor
    frames: int
    cross: CrossCache | None
    params: GenerationParams
    seed: int
    stride_frames: int
    family: int | None = None

    @property
    def rows(self) -> int:
        return 2 if self.cross is not None and self.params.cfg_coef != 1.0 else 1


@dataclass(frozen=True)
class Drawn:
    """After a step: so many frames of a request are whole.

    Attributes:
        error: why it could not be begun; it is gone then, and nobody else was touched.
    """

    key: int
    frames: int
    finished: bool
    error: Exception | None = None


@dataclass
class _Job:
    """A request under way, whose present window begins `offset` frames into the answer."""

    request: TokenRequest
    codes: torch.Tensor  # [K, T] of the whole answer; UNKNOWN where nothing is drawn yet
    offset: int = 0
    prompt_frames: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_frames = self.request.prompt.shape[-1]


class EngineCore:
    """Many requests in one batch.

    Args:
        window_frames: the longest stretch that the model sees at once.
    """

    def __init__(
        self, runner: Runner, scheduler: Scheduler, pattern: DelayPattern, window_frames: int, special: int
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._pattern = pattern
        self._window_frames = window_frames
        self._special = special
        self._jobs: dict[int, _Job] = {}

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    @property
    def occupancy(self) -> Occupancy:
        """From any thread."""
        return self._scheduler.occupancy

    def add(self, request: TokenRequest) -> None:
        """Queues a request.

        Raises:
            InvalidInput: it could never run here.
        """
        codebooks = request.prompt.shape[0]
        codes = torch.full((codebooks, request.frames), UNKNOWN, dtype=torch.int64)
        codes[:, : request.prompt.shape[1]] = request.prompt
        job = _Job(request, codes)
        self._scheduler.add(self._admission(job))
        self._jobs[request.key] = job

    def abort(self, key: int) -> bool:
        """Gives a request up between two steps; its slot is free at once. False where none has this key."""
        self._jobs.pop(key, None)
        return self._scheduler.abort(key)

    def step(self) -> list[Drawn]:
        """One step for everybody; empty where there is nothing to do.

        What goes wrong in the pass itself is raised as it is: nobody knows whose state is whole then.
        """
        plan, failed = self._begin()
        if plan is None:
            return failed
        keys = {work.slot: self._key(work.slot) for work in plan.sampled}
        self._runner.run(plan)
        finished = set(self._scheduler.advance(plan))
        drawn = [self._collect(keys[work.slot], work, work.slot in finished) for work in plan.sampled]
        return [*failed, *drawn]

    def codes(self, key: int, start: int, end: int) -> torch.Tensor:
        """[K, end - start] frames of a request's answer that are whole, while it runs."""
        job = self._jobs[key]
        known = job.codes[:, start:end]
        if not bool((known == UNKNOWN).any()):
            return known
        slot = self._scheduler.slot_of(key)
        assert slot is not None, f"request {key} does not run"
        self._take(job, slot)
        return job.codes[:, start:end]

    def _begin(self) -> tuple[StepPlan | None, list[Drawn]]:
        """The next plan, its newcomer seated; one that cannot be seated goes, and the plan is made without it."""
        failed: list[Drawn] = []
        while (plan := self._scheduler.plan()) is not None:
            if plan.newcomer is None:
                break
            key = self._key(plan.newcomer.slot)
            try:
                self._seat(plan.newcomer.slot)
                break
            except Exception as error:
                if is_device_fault(error):
                    raise
                self.abort(key)
                failed.append(Drawn(key, 0, finished=True, error=error))
        return plan, failed

    def _window(self, job: _Job) -> int:
        """Frames of the job's present window, prompt included."""
        return min(job.request.frames - job.offset, self._window_frames)

    def _admission(self, job: _Job) -> Admission:
        return Admission(
            key=job.request.key,
            rows=job.request.rows,
            prefill=self._pattern.prefill_positions(job.prompt_frames),
            positions=self._pattern.positions(self._window(job)),
            family=job.request.family if not job.offset else None,  # once a window has slid, its prompt is its own
        )

    def _key(self, slot: int) -> int:
        key = self._scheduler.key_of(slot)
        assert key is not None, f"slot {slot} is planned and nobody holds it"
        return key

    def _seat(self, slot: int) -> None:
        job = self._jobs[self._key(slot)]
        window = job.codes[:, job.offset : job.offset + self._window(job)]
        request = job.request
        self._runner.seat(
            slot,
            SlotState(
                sequence=self._pattern.to_sequence(window, self._special),
                cross=request.cross,
                params=request.params,
                seed=request.seed,
                counter=job.offset,
            ),
        )

    def _collect(self, key: int, work: SlotWork, finished: bool) -> Drawn:
        job = self._jobs[key]
        done = job.offset + min(self._pattern.complete_frames_at(work.start + work.length), self._window(job))
        if not finished:
            return Drawn(key, done, finished=False)
        self._take(job, work.slot)
        if self._slide(job):
            self._scheduler.add(self._admission(job), front=True)
            return Drawn(key, done, finished=False)
        return Drawn(key, done, finished=True)

    def forget(self, key: int) -> None:
        """Drops a finished request's codes."""
        self._jobs.pop(key, None)

    def _take(self, job: _Job, slot: int) -> None:
        """Copies what the slot has drawn so far into the job's codes."""
        frames = self._window(job)
        sequence = self._runner.sequence(slot, self._pattern.positions(frames))
        job.codes[:, job.offset : job.offset + frames] = self._pattern.to_codes(sequence)

    def _slide(self, job: _Job) -> bool:
        """Moves the window on as audiocraft does: by the stride, what remains of the old one being the prompt."""
        if job.offset + self._window(job) >= job.request.frames:
            return False
        made = self._window(job)
        job.offset += job.request.stride_frames
        job.prompt_frames = made - job.request.stride_frames
        return True
