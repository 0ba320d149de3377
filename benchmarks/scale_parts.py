"""What each part of the service takes of the cores and of the database: read from outside, before and after a load."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psutil
from pymongo import MongoClient

from benchmarks.soak_service import name_of

CLIENT = "the benchmark itself"


@dataclass(frozen=True)
class Reading:
    """Counts since their beginnings.

    Attributes:
        at_s: monotonic.
        cpu_s: by part: seconds of one core, of ended children too.
        busy_s: of all cores of the machine, by anybody.
        operations: of the database server, by kind.
    """

    at_s: float
    cpu_s: dict[str, float]
    busy_s: float
    operations: dict[str, int]


def read(uri: str) -> Reading:
    """Everything now. What this process's children started counts as theirs."""
    itself = psutil.Process()
    cpu_s: defaultdict[str, float] = defaultdict(float)
    for process in [itself, *itself.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            own_s = times.user + times.system
            name = CLIENT if process == itself else name_of(process)
            cpu_s[name] += own_s if process == itself else own_s + times.children_user + times.children_system
    machine = psutil.cpu_times()
    client: MongoClient[dict[str, Any]]
    with MongoClient(uri) as client:
        operations = client.admin.command("serverStatus")["opcounters"]
    return Reading(monotonic(), dict(cpu_s), sum(machine) - machine.idle - machine.iowait, operations)


@dataclass(frozen=True)
class Spent:
    """Between two readings.

    Attributes:
        cores: taken by each part, on average.
        others_cores: taken by whatever else this machine does.
        operations_per_s: of the database server, by kind.
    """

    wall_s: float
    cores: dict[str, float]
    others_cores: float
    operations_per_s: dict[str, float]

    @property
    def all_cores(self) -> float:
        return sum(self.cores.values())


def spent(before: Reading, after: Reading) -> Spent:
    """Parts that ended or began in between are left out."""
    wall_s = after.at_s - before.at_s
    cores = {part: (cpu_s - before.cpu_s[part]) / wall_s for part, cpu_s in after.cpu_s.items() if part in before.cpu_s}
    busy_cores = (after.busy_s - before.busy_s) / wall_s
    operations = {kind: (count - before.operations[kind]) / wall_s for kind, count in after.operations.items()}
    return Spent(wall_s, cores, max(0.0, busy_cores - sum(cores.values())), operations)
