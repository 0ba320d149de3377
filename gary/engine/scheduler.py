"""Who runs in the next step: first come, first served, on integers alone. No tensor, no clock, no I/O, no thread.

In every step each request whose prompt is in the cache decodes one position, and at most one newcomer has one chunk of
its prompt fed: so nobody waits longer than for one chunk, whoever comes. Nobody is overtaken: while the first in the
queue does not fit, all wait, or else requests of one row would keep one of two rows out for ever.

Requests of one family begin with the same positions. As long as one of them runs, whoever joins is given those that lie
before its last chunk and has that chunk alone fed: cut as it is for everybody, so that it is rounded as for everybody.

MusicGen has no end token: a request's steps are known when it is admitted, so every forecast here is exact until
somebody comes in at the front or gives up. `plan`, `advance`, `add` and `abort` cost O(running) at most.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import chain

from gary.engine.slots import SlotTable
from gary.engine.stats import Occupancy
from gary.engine.step import RowCopy, SlotWork, StepPlan
from gary.errors import InvalidInput


@dataclass(frozen=True)
class Admission:
    """What the scheduler must know of a request, or of one window of a request longer than the model's.

    Attributes:
        key: the engine's handle; unique among those waiting and running.
        rows: of the cache: 1, or 2 with guidance.
        prefill: positions fed before the first is drawn: frames of the prompt + 1.
        positions: of the whole sequence: frames + codebooks in mono. Position positions - 1 is drawn last, never fed.
        family: those of one family have the same rows, and feed the same tokens under the same description until the
            first is drawn; None for a request that has no such relative.
    """

    key: int
    rows: int
    prefill: int
    positions: int
    family: int | None = None

    def __post_init__(self) -> None:
        assert self.rows in (1, 2), f"a request has one row or two, not {self.rows}"
        assert self.prefill >= 1, f"the first position is always fed, so prefill is at least 1, not {self.prefill}"


@dataclass(slots=True, eq=False)
class _Running:
    """A request in its slot. Once `fed` positions are in the cache, position `fed` is the next to be fed.

    Attributes:
        source: a relative's rows, whose positions before this one's only chunk are copied in that chunk's step. Even
            if the relative goes, they are nobody else's until then: nobody else is admitted.
    """

    admission: Admission
    slot: int
    rows: tuple[int, ...]
    fed: int = 0
    source: tuple[int, ...] | None = None

    @property
    def prefilling(self) -> bool:
        return self.fed < self.admission.prefill

    @property
    def finished(self) -> bool:
        return self.fed == self.admission.positions - 1


class Scheduler:
    """Admits requests to slots and says what each step feeds.

    Args:
        slots: requests that may run at once.
        rows: rows of the cache.
        window: positions that a row holds.
        prefill_chunk: positions of a newcomer's prompt fed in one step, at most.
    """

    def __init__(self, slots: int, rows: int, window: int, prefill_chunk: int) -> None:
        assert prefill_chunk >= 1, f"a chunk is at least one position, not {prefill_chunk}"
        self._table = SlotTable(slots, rows)
        self._window = window
        self._chunk = prefill_chunk
        self._front: OrderedDict[int, Admission] = OrderedDict()  # before all of `_queue`, in order among themselves
        self._queue: OrderedDict[int, Admission] = OrderedDict()
        self._running: dict[int, _Running] = {}  # by key, in order of admission: only the last may still prefill
        self._keys: dict[int, int] = {}  # of `_running`, by slot
        self._planned: StepPlan | None = None  # made, and neither carried out nor superseded
        self._under_way: tuple[_Running, ...] = ()  # whose work it holds

    def add(self, admission: Admission, *, front: bool = False) -> None:
        """Queues a request.

        Args:
            admission: the request.
            front: before all that have never run: the next window of a request that has run until now. Added before
                the next plan, it finds the room that it has just given up; nobody can have taken it.

        Raises:
            InvalidInput: it could never run: more rows or positions than there are, or no position to be drawn.
        """
        assert not self._knows(admission.key), f"key {admission.key} is under way already"
        self._check(admission)
        queue = self._front if front else self._queue
        queue[admission.key] = admission

    def plan(self) -> StepPlan | None:
        """The next step, decoders in the order of their admission; None when nobody runs or waits.

        It supersedes a plan that was not advanced, whose positions it feeds again: so a request that fails before the
        step has begun can be aborted and left out.
        """
        self._admit()
        newcomer = self._newcomer()
        decoding = [running for running in self._running.values() if running is not newcomer]
        self._under_way = (*decoding, newcomer) if newcomer else tuple(decoding)
        if not self._under_way:
            self._planned = None
            return None
        decode = tuple(SlotWork(each.slot, each.rows, each.fed, 1, samples=True) for each in decoding)
        if newcomer is None:
            self._planned = StepPlan(decode, None)
        else:
            copy = RowCopy(newcomer.source, newcomer.rows, newcomer.fed) if newcomer.source else None
            self._planned = StepPlan(decode, self._chunk_of(newcomer), copy)
        return self._planned

    def advance(self, plan: StepPlan) -> list[int]:
        """Moves on by the step that `plan` made last, and frees those that are finished.

        To be called when the step has been carried out, or queued on a device that carries out steps in order: slots
        and rows freed here may be given away by the next plan.

        Returns:
            The slots of those whose last position has been drawn. Whoever was aborted since the plan is not among them.
        """
        assert plan is self._planned, "only the plan made last can be advanced, and only once"
        works = chain(plan.decode, (plan.prefill,) if plan.prefill else ())
        finished = []
        for work, running in zip(works, self._under_way, strict=True):
            if running.admission.key not in self._running:
                continue  # aborted meanwhile
            running.fed += work.length
            if running.finished:
                self._release(running)
                finished.append(running.slot)
        self._planned, self._under_way = None, ()
        return finished

    def abort(self, key: int) -> bool:
        """Gives a request up, waiting or running; False where none has this key.

        Its slot is free at once, also while a plan is under way: that plan's work for it then counts for nobody.
        """
        if running := self._running.get(key):
            self._release(running)
            return True
        return any(queue.pop(key, None) for queue in (self._front, self._queue))

    @property
    def waiting(self) -> int:
        return len(self._front) + len(self._queue)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def free_slots(self) -> int:
        return self._table.free_slots

    @property
    def free_rows(self) -> int:
        return self._table.free_rows

    @property
    def occupancy(self) -> Occupancy:
        """From any thread."""
        table = self._table
        return Occupancy(
            slots=table.slots,
            slots_in_use=table.slots - table.free_slots,
            rows=table.rows,
            rows_in_use=table.rows - table.free_rows,
            waiting=self.waiting,
        )

    def slot_of(self, key: int) -> int | None:
        """The slot of a running request; None while it waits, and once it is gone."""
        running = self._running.get(key)
        return running.slot if running else None

    def key_of(self, slot: int) -> int | None:
        """The request that holds a slot; None where it is free."""
        return self._keys.get(slot)

    def queue_position(self, key: int) -> int | None:
        """Requests that will be admitted before this one; None where it does not wait. O(waiting)."""
        return next((place for place, waiting in enumerate(self._in_order()) if waiting.key == key), None)

    def steps_until_done(self, key: int) -> int | None:
        """Steps still to be advanced until a running request has its last position; None where it does not run."""
        running = self._running.get(key)
        return self._steps(running.admission, running.fed) if running else None

    def steps_until_admission(self, key: int) -> int | None:
        """Steps to be advanced before the plan that admits a waiting request; None where it does not wait.

        0 says that the very next plan admits it. O((running + queue position) * log running).
        """
        return next((steps for waiting, steps in self._forecast() if waiting == key), None)

    def _knows(self, key: int) -> bool:
        return key in self._running or key in self._front or key in self._queue

    def _check(self, admission: Admission) -> None:
        if admission.rows > self._table.rows:
            raise InvalidInput(f"the request needs {admission.rows} rows of the cache; there are {self._table.rows}")
        if admission.positions > self._window:
            raise InvalidInput(f"the request has {admission.positions} positions; the window is {self._window}")
        if admission.prefill >= admission.positions:
            raise InvalidInput(
                f"the prompt takes {admission.prefill} of {admission.positions} positions: nothing is left to be drawn"
            )

    def _in_order(self) -> Iterator[Admission]:
        return chain(self._front.values(), self._queue.values())

    def _newcomer(self) -> _Running | None:
        """The one whose prompt is being fed: nobody is admitted meanwhile, so it is the last."""
        last = next(reversed(self._running.values()), None)
        return last if last and last.prefilling else None

    def _admit(self) -> None:
        """Gives the first in the queue its slot, if it fits and nobody else's prompt is being fed."""
        queue = self._front or self._queue
        if not queue or self._newcomer():
            return
        first = next(iter(queue.values()))
        if room := self._table.allocate(first.rows):
            slot, rows = room
            del queue[first.key]
            self._running[first.key] = self._seated(first, slot, rows)
            self._keys[slot] = first.key

    def _seated(self, admission: Admission, slot: int, rows: tuple[int, ...]) -> _Running:
        """With what a relative has in the cache; whoever runs has all of its prefill there by now."""
        shared = self._before_last_chunk(admission)
        if admission.family is None or not shared:
            return _Running(admission, slot, rows)
        relatives = (each for each in self._running.values() if each.admission.family == admission.family)
        relative = next(relatives, None)
        if relative is None:
            return _Running(admission, slot, rows)
        assert (relative.admission.rows, relative.admission.prefill) == (admission.rows, admission.prefill)
        return _Running(admission, slot, rows, fed=shared, source=relative.rows)

    def _before_last_chunk(self, admission: Admission) -> int:
        return (admission.prefill - 1) // self._chunk * self._chunk

    def _chunk_of(self, newcomer: _Running) -> SlotWork:
        left = newcomer.admission.prefill - newcomer.fed
        length = min(left, self._chunk)
        return SlotWork(newcomer.slot, newcomer.rows, newcomer.fed, length, samples=length == left)

    def _release(self, running: _Running) -> None:
        self._table.free(running.slot)
        del self._running[running.admission.key], self._keys[running.slot]

    def _chunks(self, admission: Admission, fed: int = 0) -> int:
        """Steps of prefill that are left, the last of which draws the first position."""
        return -(-max(0, admission.prefill - fed) // self._chunk)

    def _steps(self, admission: Admission, fed: int = 0) -> int:
        return self._chunks(admission, fed) + admission.positions - 1 - max(fed, admission.prefill)

    def _forecast(self) -> Iterator[tuple[int, int]]:
        """(key, steps until admission) of all that wait, in order: the queue run forward from event to event."""
        newcomer = self._newcomer()
        # The plan under way admits nobody any more; the newcomer's chunks keep all others out until they are fed.
        now = max(self._chunks(newcomer.admission, newcomer.fed) if newcomer else 0, int(self._planned is not None))
        ends = [(self._steps(each.admission, each.fed), each.admission.rows) for each in self._running.values()]
        last_of: dict[int | None, int] = {}  # by family, when the last that has joined is done
        for each in self._running.values():
            family = each.admission.family
            last_of[family] = max(last_of.get(family, 0), self._steps(each.admission, each.fed))
        heapify(ends)
        slots, rows = self._table.free_slots, self._table.free_rows
        for first in self._in_order():
            while slots < 1 or rows < first.rows:
                end, freed = heappop(ends)
                now, slots, rows = max(now, end), slots + 1, rows + freed
            yield first.key, now
            related = first.family is not None and last_of.get(first.family, 0) > now
            given = self._before_last_chunk(first) if related else 0
            done = now + self._steps(first, given)
            last_of[first.family] = max(last_of.get(first.family, 0), done)
            slots, rows = slots - 1, rows - first.rows
            heappush(ends, (done, first.rows))
            now += self._chunks(first, given)
