"""The scheduler's promises, under any order of arrivals, steps and aborts. No torch, no model: integers."""

import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gary.engine.scheduler import Admission, Scheduler
from gary.engine.step import RowCopy, SlotWork, StepPlan
from gary.errors import InvalidInput

WINDOW = 40
FAMILIES = {0: (1, 13), 1: (2, 9), 2: (1, 1)}  # rows and prefill


@dataclass(eq=False)
class Account:
    """What a request has been seen to do."""

    admission: Admission
    place: tuple[int, tuple[int, ...]] | None = None  # slot and rows
    given: range = range(0)  # positions that it did not feed itself
    fed: list[int] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)

    def book(self, work: SlotWork) -> None:
        self.fed.extend(range(work.start, work.start + work.length))
        if work.samples:
            self.drawn.append(work.start + work.length)

    @property
    def there(self) -> int:
        """Positions in the cache."""
        return len(self.given) + len(self.fed)

    @property
    def complete(self) -> bool:
        last = self.admission.positions - 1
        return [*self.given, *self.fed] == list(range(last)) and self.drawn == list(
            range(self.admission.prefill, last + 1)
        )


class AnyHistory(RuleBasedStateMachine):
    """A model of the scheduler that only keeps accounts: who waits, in order, and what each that runs has been fed."""

    @initialize(slots=st.integers(1, 4), rows=st.integers(2, 7), chunk=st.integers(1, 6))
    def begin(self, slots: int, rows: int, chunk: int) -> None:
        self.scheduler = Scheduler(slots, rows, WINDOW, chunk)
        self.slots, self.rows, self.chunk = slots, rows, chunk
        self.next_key = 0
        self.front: list[Account] = []
        self.queue: list[Account] = []
        self.running: dict[int, Account] = {}
        self.aborted: set[int] = set()

    @property
    def waiting(self) -> list[Account]:
        return self.front + self.queue

    @rule(
        rows=st.integers(1, 2),
        prefill=st.integers(1, 15),
        draws=st.integers(1, 10),
        front=st.booleans(),
        family=st.sampled_from([None, *FAMILIES]),
    )
    def add(self, rows: int, prefill: int, draws: int, front: bool, family: int | None) -> None:
        if family is not None:
            rows, prefill = FAMILIES[family]
        admission = Admission(self.next_key, rows, prefill, prefill + draws, family)
        self.next_key += 1
        self.scheduler.add(admission, front=front)
        (self.front if front else self.queue).append(Account(admission))

    @precondition(lambda self: self.next_key > 0)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        """At any time; True once, for those under way alone."""
        key = data.draw(st.integers(0, self.next_key - 1))
        under_way = key in self.running or key in {account.admission.key for account in self.waiting}
        assert self.scheduler.abort(key) == under_way
        assert not self.scheduler.abort(key)
        self.running.pop(key, None)
        self.front = [account for account in self.front if account.admission.key != key]
        self.queue = [account for account in self.queue if account.admission.key != key]
        self.aborted.add(key)

    @rule()
    def step(self) -> None:
        plan = self.check_plan()
        if plan:
            self.check_advance(plan, self.owners(plan))

    @rule(data=st.data())
    def step_with_abort_under_way(self, data: st.DataObject) -> None:
        plan = self.check_plan()
        if plan:
            owners = self.owners(plan)
            self.abort(data)
            self.check_advance(plan, owners)

    @rule(data=st.data())
    def superseded_plan(self, data: st.DataObject) -> None:
        """Between two plans somebody may go, and somebody else may come into the slot."""
        if not self.check_plan():
            return
        self.abort(data)
        plan = self.check_plan(supersedes=True)
        if plan:
            self.check_advance(plan, self.owners(plan))

    def check_plan(self, supersedes: bool = False) -> StepPlan | None:
        """The plan is what the promises say it must be, and nothing else."""
        waiting = [account.admission.key for account in self.waiting]
        admitted_now = [key for key in waiting if self.scheduler.steps_until_admission(key) == 0]
        decoding = [account for account in self.running.values() if account.there >= account.admission.prefill]
        newcomers = [account for account in self.running.values() if account not in decoding]
        first = self.waiting[0] if self.waiting else None
        fits = first is not None and self.scheduler.free_slots > 0 and self.scheduler.free_rows >= first.admission.rows

        plan = self.scheduler.plan()

        if first and fits and not newcomers:
            (self.front or self.queue).remove(first)
            if self.relatives(first):
                first.given = range((first.admission.prefill - 1) // self.chunk * self.chunk)
            self.running[first.admission.key] = first
            newcomers = [first]
            assert supersedes or admitted_now == [first.admission.key]
        else:
            assert not admitted_now
        if plan is None:
            assert not self.running
            assert not self.waiting
            return None
        works = [*plan.decode, *([plan.prefill] if plan.prefill else [])]
        assert len(works) == len(decoding) + len(newcomers), "everyone that runs is in every step, once"
        for work, account in zip(works, decoding + newcomers, strict=True):
            self.check_work(work, account)
        self.check_join(plan, newcomers)
        return plan

    def relatives(self, account: Account) -> list[Account]:
        family = account.admission.family
        return [each for each in self.running.values() if family is not None and each.admission.family == family]

    def check_join(self, plan: StepPlan, newcomers: list[Account]) -> None:
        """A plan says who joins until the first step of it has been made, and what it is given and where that lies."""
        joins = next((account for account in newcomers if not account.fed), None)
        assert plan.newcomer == (plan.prefill if joins else None)
        if joins is None or not joins.given:
            assert plan.copy is None
            return
        assert plan.copy
        assert joins.place
        assert plan.copy == RowCopy(plan.copy.sources, joins.place[1], len(joins.given))
        assert len(plan.copy.sources) == joins.admission.rows
        holders = {row: account for account in self.running.values() if account.place for row in account.place[1]}
        for row in plan.copy.sources:  # still a relative's, or nobody's since that one went under the plan before
            assert row not in holders or holders[row] in self.relatives(joins)
            assert row not in plan.copy.targets

    def check_work(self, work: SlotWork, account: Account) -> None:
        """Positions are fed once and in order, from the same slot and rows; a chunk is as long as it may be."""
        left = account.admission.prefill - account.there
        assert self.scheduler.key_of(work.slot) == account.admission.key
        assert self.scheduler.slot_of(account.admission.key) == work.slot
        assert account.place in (None, (work.slot, work.rows))
        account.place = (work.slot, work.rows)
        assert len(work.rows) == account.admission.rows
        assert work.start == account.there
        assert work.length == (min(left, self.chunk) if left > 0 else 1)
        assert work.samples == (left <= work.length)

    def owners(self, plan: StepPlan) -> list[tuple[SlotWork, Account]]:
        works = [*plan.decode, *([plan.prefill] if plan.prefill else [])]
        by_slot = {account.place[0]: account for account in self.running.values() if account.place}
        return [(work, by_slot[work.slot]) for work in works]

    def check_advance(self, plan: StepPlan, owners: list[tuple[SlotWork, Account]]) -> None:
        """Exactly those are finished, and at once, whose last position has been drawn; the aborted never."""
        finished = self.scheduler.advance(plan)
        expected = []
        for work, account in owners:
            if account.admission.key in self.aborted:
                continue
            account.book(work)
            if account.drawn and account.drawn[-1] == account.admission.positions - 1:
                assert account.complete
                expected.append(work.slot)
                del self.running[account.admission.key]
        assert finished == expected

    @invariant()
    def rows_add_up(self) -> None:
        """No row and no slot has two holders; what nobody holds is free."""
        if not hasattr(self, "scheduler"):
            return
        places = [account.place for account in self.running.values() if account.place]
        rows = [row for _, of_slot in places for row in of_slot]
        assert len(places) == len(self.running) == self.scheduler.running
        assert len({slot for slot, _ in places}) == len(places)
        assert len(set(rows)) == len(rows)
        keys = {account.place[0]: key for key, account in self.running.items() if account.place}
        assert all(self.scheduler.key_of(slot) == keys.get(slot) for slot in range(self.slots))
        assert self.scheduler.free_slots == self.slots - len(places)
        assert self.scheduler.free_rows == self.rows - len(rows)

    @invariant()
    def queue_is_in_order(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        assert self.scheduler.waiting == len(self.waiting)
        for place, account in enumerate(self.waiting):
            assert self.scheduler.queue_position(account.admission.key) == place
            assert self.scheduler.slot_of(account.admission.key) is None
        for key in self.running.keys() | self.aborted:
            assert self.scheduler.queue_position(key) is None

    def teardown(self) -> None:
        """Nobody starves: all that are left are done within the sum of their steps, and everything is free again."""
        if not hasattr(self, "scheduler"):
            return
        bound = sum(each.admission.positions for each in [*self.running.values(), *self.waiting])
        for _ in range(bound):
            self.step()
        assert self.scheduler.plan() is None
        assert (self.scheduler.free_slots, self.scheduler.free_rows) == (self.slots, self.rows)


AnyHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyHistory = AnyHistory.TestCase


def run_out(scheduler: Scheduler) -> tuple[dict[int, int], dict[int, int]]:
    """Runs all to the end: the step in which each key was admitted, and the number of steps after which it was done."""
    admitted: dict[int, int] = {}
    done: dict[int, int] = {}
    step = 0
    while plan := scheduler.plan():
        keys = {work.slot: scheduler.key_of(work.slot) for work in plan.sampled}
        if plan.newcomer:
            newcomer = scheduler.key_of(plan.newcomer.slot)
            assert newcomer is not None
            admitted[newcomer] = step
        step += 1
        for slot in scheduler.advance(plan):
            key = keys[slot]
            assert key is not None
            done[key] = step
    return admitted, done


SHAPES = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=14)
RELATED = st.lists(st.sampled_from([None, *FAMILIES]), min_size=14, max_size=14)


@given(SHAPES, RELATED, st.integers(1, 4), st.integers(2, 6), st.integers(1, 7), st.integers(0, 30), st.booleans())
@settings(deadline=None)
def test_forecasts_are_exact(
    shapes: list[tuple[int, int, int]],
    related: list[int | None],
    slots: int,
    rows: int,
    chunk: int,
    head_start: int,
    under_way: bool,
) -> None:
    """From any moment, also while a plan is under way, each waits and runs for as many steps as was forecast."""
    scheduler = Scheduler(slots, rows, WINDOW, chunk)
    for key, ((needed, prefill, draws), family) in enumerate(zip(shapes, related, strict=False)):
        if family is not None:
            needed, prefill = FAMILIES[family]  # noqa: PLW2901
        scheduler.add(Admission(key, needed, prefill, prefill + draws, family))
    for _ in range(head_start):
        if plan := scheduler.plan():
            scheduler.advance(plan)
    plan = scheduler.plan() if under_way else None
    late = len(shapes)  # whom the plan under way cannot admit, even where there is room
    scheduler.add(Admission(late, rows=1, prefill=1, positions=2))
    until_admission = {key: scheduler.steps_until_admission(key) for key in range(late + 1)}
    until_done = {key: scheduler.steps_until_done(key) for key in range(late + 1)}
    slots_held = {key: scheduler.slot_of(key) for key in range(late + 1)}
    finished = scheduler.advance(plan) if plan else []
    admitted, done = run_out(scheduler)

    passed = 1 if plan else 0
    done |= {key: 0 for key, slot in slots_held.items() if slot in finished}
    waited = {key: steps for key, steps in until_admission.items() if steps is not None}
    assert waited == {key: admitted[key] + passed for key in waited}
    ran = {key: steps for key, steps in until_done.items() if steps is not None}
    assert ran == {key: done[key] + passed for key in ran}


@given(SHAPES, st.integers(1, 4), st.integers(2, 6), st.integers(1, 7))
def test_first_come_first_served(shapes: list[tuple[int, int, int]], slots: int, rows: int, chunk: int) -> None:
    """Slots are given in the order of arrival, whatever each needs."""
    scheduler = Scheduler(slots, rows, WINDOW, chunk)
    for key, (needed, prefill, draws) in enumerate(shapes):
        scheduler.add(Admission(key, needed, prefill, prefill + draws))
    admitted, done = run_out(scheduler)
    assert list(admitted) == list(range(len(shapes)))
    assert done.keys() == admitted.keys()


def test_two_rows_are_not_starved() -> None:
    """A request of two rows gets them although those of one row, that would fit, never cease to come."""
    scheduler = Scheduler(slots=4, rows=2, window=WINDOW, prefill_chunk=4)
    scheduler.add(Admission(0, rows=1, prefill=1, positions=20))
    first = scheduler.plan()
    assert first
    scheduler.advance(first)
    scheduler.add(Admission(1, rows=2, prefill=1, positions=20))
    for key in range(2, 22):
        scheduler.add(Admission(key, rows=1, prefill=1, positions=20))
        plan = scheduler.plan()
        assert plan
        scheduler.advance(plan)
    assert scheduler.slot_of(1) is not None
    assert scheduler.running == 1


def test_long_prompt_delays_nobody_by_more_than_a_chunk() -> None:
    """While 301 positions are fed in chunks of 64, the others decode in each of those steps; the last chunk draws."""
    scheduler = Scheduler(slots=3, rows=6, window=1504, prefill_chunk=64)
    scheduler.add(Admission(0, rows=2, prefill=1, positions=1504))
    plan = scheduler.plan()
    assert plan == StepPlan((), SlotWork(0, (0, 1), 0, 1, samples=True)), "a request of text only feeds one position"
    scheduler.advance(plan)
    scheduler.add(Admission(1, rows=2, prefill=301, positions=1504))
    for start, length in [(0, 64), (64, 64), (128, 64), (192, 64), (256, 45)]:
        plan = scheduler.plan()
        assert plan
        assert [work.slot for work in plan.decode] == [0]
        assert plan.prefill == SlotWork(1, (2, 3), start, length, samples=start == 256)
        scheduler.advance(plan)
    plan = scheduler.plan()
    assert plan
    assert [(work.slot, work.start) for work in plan.decode] == [(0, 6), (1, 301)]
    assert plan.prefill is None


def test_relatives_share_all_but_the_last_chunk() -> None:
    """Three of one prompt of 301 positions: five chunks for the first, one for each other, the rest from its rows."""
    scheduler = Scheduler(slots=3, rows=6, window=1504, prefill_chunk=64)
    for key in range(3):
        scheduler.add(Admission(key, rows=2, prefill=301, positions=1504, family=7))
    for start in (0, 64, 128, 192, 256):
        plan = scheduler.plan()
        assert plan
        assert plan.prefill
        assert (plan.prefill.start, plan.copy) == (start, None)
        scheduler.advance(plan)
    for slot, rows in [(1, (2, 3)), (2, (4, 5))]:
        plan = scheduler.plan()
        assert plan
        assert plan.newcomer == plan.prefill == SlotWork(slot, rows, 256, 45, samples=True)
        assert plan.copy == RowCopy((0, 1), rows, 256)
        scheduler.advance(plan)
    plan = scheduler.plan()
    assert plan
    assert [work.start for work in plan.decode] == [303, 302, 301]


def test_a_relative_that_waits_or_is_gone_gives_nothing() -> None:
    """Only what lies in the cache can be shared: with one slot each feeds all of its prompt."""
    scheduler = Scheduler(slots=1, rows=2, window=WINDOW, prefill_chunk=4)
    for key in range(2):
        scheduler.add(Admission(key, rows=2, prefill=9, positions=12, family=7))
    starts = []
    while plan := scheduler.plan():
        assert plan.copy is None
        starts += [plan.prefill.start] if plan.prefill else []
        scheduler.advance(plan)
    assert starts == [0, 4, 8] * 2


def test_next_window_finds_its_room() -> None:
    """Of two whose windows end in one step each comes back into the room that it gave up, before all that wait."""
    scheduler = Scheduler(slots=2, rows=4, window=WINDOW, prefill_chunk=8)
    scheduler.add(Admission(0, rows=2, prefill=2, positions=11))
    scheduler.add(Admission(1, rows=2, prefill=1, positions=9))  # admitted a step later, a draw shorter
    scheduler.add(Admission(2, rows=1, prefill=1, positions=9))
    finished: list[int] = []
    while not finished:
        plan = scheduler.plan()
        assert plan
        finished = scheduler.advance(plan)
    assert finished == [0, 1]
    scheduler.add(Admission(0, rows=2, prefill=9, positions=11), front=True)
    scheduler.add(Admission(1, rows=2, prefill=5, positions=11), front=True)
    assert [scheduler.queue_position(key) for key in (0, 1, 2)] == [0, 1, 2]
    admitted, _ = run_out(scheduler)
    assert list(admitted) == [0, 1, 2]
    assert (admitted[0], admitted[1]) == (0, 2), "the second waits for nothing but the first's two chunks"


def test_slot_given_away_under_a_plan() -> None:
    """Aborted under a plan, its slot given to another under the next: the other alone moves on, from its own start."""
    scheduler = Scheduler(slots=1, rows=1, window=WINDOW, prefill_chunk=8)
    scheduler.add(Admission(0, rows=1, prefill=3, positions=20))
    scheduler.add(Admission(1, rows=1, prefill=5, positions=20))
    stale = scheduler.plan()
    assert scheduler.abort(0)
    plan = scheduler.plan()
    assert stale
    assert plan == StepPlan((), SlotWork(0, (0,), 0, 5, samples=True))
    with pytest.raises(AssertionError, match="only the plan made last"):
        scheduler.advance(stale)
    assert scheduler.advance(plan) == []
    with pytest.raises(AssertionError, match="only once"):
        scheduler.advance(plan)
    assert scheduler.steps_until_done(1) == 14


def test_same_key_again_under_a_plan() -> None:
    """Aborted and asked for again while a plan is under way: the plan's work counts for the one that is gone."""
    scheduler = Scheduler(slots=1, rows=1, window=WINDOW, prefill_chunk=8)
    scheduler.add(Admission(0, rows=1, prefill=3, positions=4))
    plan = scheduler.plan()
    assert plan
    scheduler.abort(0)
    scheduler.add(Admission(0, rows=1, prefill=3, positions=4))
    assert scheduler.advance(plan) == []
    assert scheduler.queue_position(0) == 0


@pytest.mark.parametrize(
    ("admission", "message"),
    [
        (Admission(0, rows=2, prefill=1, positions=10), "needs 2 rows of the cache; there are 1"),
        (Admission(0, rows=1, prefill=1, positions=WINDOW + 1), "has 41 positions; the window is 40"),
        (Admission(0, rows=1, prefill=10, positions=10), "nothing is left to be drawn"),
    ],
    ids=["rows", "window", "prompt"],
)
def test_what_never_fits_is_refused(admission: Admission, message: str) -> None:
    """It is refused at once, instead of standing in the queue's way for ever."""
    scheduler = Scheduler(slots=4, rows=1, window=WINDOW, prefill_chunk=8)
    with pytest.raises(InvalidInput, match=message):
        scheduler.add(admission)
    assert scheduler.waiting == 0
    assert scheduler.plan() is None


def test_scheduling_is_no_part_of_a_step() -> None:
    """A step of 64 running requests, with a thousand waiting, is scheduled in under a millisecond."""
    scheduler = Scheduler(slots=64, rows=128, window=1504, prefill_chunk=64)
    for key in range(1064):
        scheduler.add(Admission(key, rows=2, prefill=1, positions=1504))
    steps = 1000
    begun_s = time.process_time()
    for _ in range(steps):
        plan = scheduler.plan()
        assert plan
        scheduler.advance(plan)
    took_s = time.process_time() - begun_s
    assert (scheduler.running, scheduler.waiting) == (64, 1000)
    assert took_s / steps < 1e-3
