"""Jobs that pass through pools one after the other: a discrete-event simulation, exact between its events.

A pool works on up to so many jobs at once, each at the same speed, which may fall with their number; the others wait
in line. Where all pools together want more cores than there are, all of them slow down by one factor, as processes on
one machine do. Nothing here is random: who draws arrivals and work is the caller.

A queue with c servers is a pool of c places at speed 1; a processor that is shared is a pool without bound at 1/n.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count


def steady(jobs: int) -> float:
    """A speed that does not depend on company."""
    return 1.0


def free(jobs: int) -> float:
    """Cores of a pool that takes none."""
    return 0.0


@dataclass(frozen=True)
class Pool:
    """Where work is done.

    Attributes:
        places: jobs worked on at once.
        speed: work a second of each of so many jobs.
        cores: wanted while so many jobs are worked on, at full speed.
    """

    places: float = math.inf
    speed: Callable[[int], float] = steady
    cores: Callable[[int], float] = free


@dataclass(frozen=True)
class Visit:
    """A stage of a job.

    Attributes:
        pools: where it may be done, by number; the job goes where fewest are, at work or in line.
        work: in the pool's unit: seconds at speed 1.
    """

    pools: tuple[int, ...]
    work: float


@dataclass(frozen=True)
class Job:
    """Comes at `at_s` and makes its visits in order."""

    at_s: float
    visits: tuple[Visit, ...]


@dataclass
class _Room:
    """A pool at work. Since all its jobs have one speed, each is done when the work of one that never leaves has
    reached what it was when the job came, and the job's own.

    Attributes:
        done: work of one that never leaves.
        inside: (`done` at the end, order, job's number).
    """

    pool: Pool
    done: float = 0.0
    inside: list[tuple[float, int, int]] = field(default_factory=list)
    line: deque[tuple[int, float]] = field(default_factory=deque)

    @property
    def jobs(self) -> int:
        return len(self.inside) + len(self.line)

    @property
    def cores(self) -> float:
        return self.pool.cores(len(self.inside)) if self.inside else 0.0

    def left_s(self, share: float) -> float:
        """Until the next job is done, at that share of full speed."""
        if not self.inside:
            return math.inf
        return max(0.0, self.inside[0][0] - self.done) / (self.pool.speed(len(self.inside)) * share)

    def work(self, time_s: float, share: float) -> None:
        if self.inside:
            self.done += time_s * self.pool.speed(len(self.inside)) * share


class Network:
    """Args:
    pools: by number, as visits name them.
    cores: of the machine that all of them share.
    """

    def __init__(self, pools: Sequence[Pool], cores: float = math.inf) -> None:
        self._rooms = [_Room(pool) for pool in pools]
        self._cores = cores
        self._order = count()
        self._now_s = 0.0

    def run(self, jobs: Sequence[Job]) -> list[float]:
        """Has all jobs done; the time at which each was. For once: a network is not empty of its past.

        Args:
            jobs: by time.
        """
        ends_s = [math.nan] * len(jobs)
        stages = [0] * len(jobs)
        coming = deque(enumerate(jobs))
        left = len(jobs)
        while left:
            share = self._share()
            room, left_s = min(((room, room.left_s(share)) for room in self._rooms), key=lambda each: each[1])
            if coming and coming[0][1].at_s <= self._now_s + left_s:
                number, job = coming.popleft()
                self._advance(job.at_s - self._now_s, share)
            else:
                self._advance(left_s, share)
                number = self._leave(room)
                stages[number] += 1
            if stages[number] == len(jobs[number].visits):
                ends_s[number] = self._now_s
                left -= 1
            else:
                self._enter(number, jobs[number].visits[stages[number]])
        return ends_s

    def _share(self) -> float:
        """Of full speed, that everybody has."""
        wanted = sum(room.cores for room in self._rooms)
        return min(1.0, self._cores / wanted) if wanted else 1.0

    def _advance(self, time_s: float, share: float) -> None:
        for room in self._rooms:
            room.work(time_s, share)
        self._now_s += time_s

    def _enter(self, number: int, visit: Visit) -> None:
        room = min((self._rooms[index] for index in visit.pools), key=lambda each: each.jobs)
        if len(room.inside) < room.pool.places:
            self._begin(room, number, visit.work)
        else:
            room.line.append((number, visit.work))

    def _leave(self, room: _Room) -> int:
        """The job that is done; the next in line takes its place."""
        room.done, _, number = heapq.heappop(room.inside)
        if room.line:
            self._begin(room, *room.line.popleft())
        return number

    def _begin(self, room: _Room, number: int, work: float) -> None:
        heapq.heappush(room.inside, (room.done + work, next(self._order), number))
