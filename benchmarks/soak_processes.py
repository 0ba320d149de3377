"""What the service's processes hold at a moment of rest: memory, open files, temporary files, children.

Memory is the anonymous part of the proportional set size, swap included: what a process can leak. Ray's object store is
shared memory of a fixed size, whose pages stay once they were touched; it is told apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from benchmarks.soak_service import Service, name_of


@dataclass(frozen=True)
class Holding:
    """What one process held; medians over several samples.

    Attributes:
        shared_mb: its share of the object store.
        files: descriptors of files, devices included; the rest of `descriptors` are sockets, pipes and events.
    """

    name: str
    memory_mb: float
    shared_mb: float
    descriptors: int
    files: int


Holdings = dict[psutil.Process, Holding]  # equal are those of one pid and one time of creation


def sample(service: Service) -> Holdings:
    """What each process holds now; those that go meanwhile are left out."""
    found: Holdings = {}
    for process in service.processes():
        try:
            found[process] = _holding(process)
        except (psutil.Error, FileNotFoundError, ProcessLookupError):
            continue
    return found


def medians(samples: Iterable[Holdings]) -> Holdings:
    """Of the processes that are in every sample."""
    rounds = list(samples)
    return {process: _median([found[process] for found in rounds]) for process in set.intersection(*map(set, rounds))}


def leftovers(service: Service) -> list[str]:
    """Temporary files of finished work: by name, or without one and held open."""
    named = [path.name for path in service.temporary.glob("gary-*")]
    unnamed = [
        target
        for process in service.processes()
        for target in _targets(process.pid)
        if target.startswith(str(service.temporary)) and target.endswith("(deleted)")
    ]
    return named + unnamed


def stragglers(service: Service) -> list[str]:
    """Processes that no work is left for: children of the workers' replicas, and dead ones that nobody waited for."""
    found = [process for name in ("Fetcher", "Cropper") for process in _children(service.victims(name))]
    found += [process for process in service.processes() if process.status() == psutil.STATUS_ZOMBIE]
    return [name_of(process) or f"a dead child of {_parent_name(process)}" for process in found]


def _parent_name(process: psutil.Process) -> str:
    parent = process.parent()
    return name_of(parent) if parent is not None else "nobody"


def _children(parents: Iterable[psutil.Process]) -> list[psutil.Process]:
    return [child for parent in parents for child in parent.children(recursive=True)]


def _holding(process: psutil.Process) -> Holding:
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
    size_kb = {name.rstrip(":"): int(value) for name, value, *_ in map(str.split, lines)}
    targets = _targets(process.pid)
    return Holding(
        name=name_of(process),
        memory_mb=(size_kb["Pss_Anon"] + size_kb["SwapPss"]) / 1024,
        shared_mb=size_kb["Pss_Shmem"] / 1024,
        descriptors=len(targets),
        files=sum(target.startswith("/") for target in targets),
    )


def _targets(pid: int) -> list[str]:
    """What a process's descriptors lead to."""
    with suppress(FileNotFoundError, ProcessLookupError):  # it is gone, or dead
        return [target for link in Path(f"/proc/{pid}/fd").iterdir() if (target := _target(link))]
    return []


def _target(link: Path) -> str:
    with suppress(FileNotFoundError):  # closed in this moment
        return os.readlink(link)
    return ""


def _median(found: list[Holding]) -> Holding:
    return Holding(
        name=found[-1].name,
        memory_mb=median(holding.memory_mb for holding in found),
        shared_mb=median(holding.shared_mb for holding in found),
        descriptors=round(median(holding.descriptors for holding in found)),
        files=round(median(holding.files for holding in found)),
    )
