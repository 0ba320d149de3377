"""What the soak breaks, when, and for how long: a schedule that follows from a seed.

Every kind of fault comes once before any comes again. A victim that is away already, or not back yet, is passed over.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import psutil

from benchmarks.soak_service import SERVER, Service

DEPLOYMENTS = ("Ingress", "Conductor", "MusicGen-tiny", "Fetcher", "Cropper", "Database")


@dataclass(frozen=True)
class Fault:
    """Something to be done to one process.

    Attributes:
        after_s: since the fault before it.
        stopped_s: how long it stands still; None where it is killed.
    """

    after_s: float
    victim: str
    stopped_s: float | None

    def __str__(self) -> str:
        return f"kill {self.victim}" if self.stopped_s is None else f"stop {self.victim}"


def schedule(chance: Random, pause_s: tuple[float, float]) -> Iterator[Fault]:
    """Faults without end.

    Args:
        pause_s: least and greatest time between two.
    """
    kinds = [(victim, kills) for victim in (*DEPLOYMENTS, SERVER) for kills in (True, False)]
    while True:
        for victim, kills in chance.sample(kinds, len(kinds)):
            # Beyond the lease for some, so that a worker wakes to find its task another's.
            stopped_s = None if kills else chance.uniform(1.0, 6.0 if victim in ("Database", SERVER) else 18.0)
            yield Fault(chance.uniform(*pause_s), victim, stopped_s)


@dataclass
class Injector:
    """Carries out a schedule.

    Attributes:
        done: how often each fault was.
    """

    service: Service
    chance: Random
    done: Counter[str] = field(default_factory=Counter)

    async def run(self, faults: Iterator[Fault]) -> None:
        """Until it is cancelled; whoever stands still then goes on."""
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(fault.after_s)
                group.create_task(self._inject(fault))

    async def _inject(self, fault: Fault) -> None:
        victims = await asyncio.to_thread(self.service.victims, fault.victim)
        if not victims:
            return
        with suppress(psutil.NoSuchProcess):  # dead in this moment, by another fault
            victim = self.chance.choice(victims)
            victim.send_signal(signal.SIGKILL if fault.stopped_s is None else signal.SIGSTOP)
            self.done[str(fault)] += 1
            if fault.stopped_s is not None:
                try:
                    await asyncio.sleep(fault.stopped_s)
                finally:
                    victim.send_signal(signal.SIGCONT)
