"""The service under mixed load and faults for minutes: `scripts/soak 10`. Nothing may be lost, and nothing may grow.

    faults    half of the time: clients of every kind; replicas and the database are killed or stopped in turn
    warm-up   a fifth: the same load, after as many of the longest pieces as fit; those who live now are measured
    rest      the clients pause until every task has ended; what each process holds is noted
    load      the remaining three tenths, nothing broken: no answer of 5xx, no process replaced
    rest      the same again: growth is what is held now, over what was held then

What is measured is measured at rest, so that it is what stays, not what is on its way. The seed gives the clients and
the faults; when things meet, the machine decides.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random, SystemRandom
from time import monotonic
from typing import Any

import httpx
import psutil
from rich.console import Console

from benchmarks import soak_processes
from benchmarks.soak_clients import Load, Material
from benchmarks.soak_faults import DEPLOYMENTS, Injector, schedule
from benchmarks.soak_ledger import Auditor
from benchmarks.soak_processes import Holdings
from benchmarks.soak_report import Findings, Leftovers, print_report
from benchmarks.soak_service import REPLICAS, TTL_S, UNFINISHED_TASKS, Service, ground, name_of, running
from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.files import encode_mp3, encode_wav
from gary.config import DatabaseConfig, Limits, TasksConfig
from gary.tasks.store import TaskStore

LOG = Path("out/soak.log")
FAULTS_SHARE, WARM_UP_SHARE = 0.5, 0.2  # of the time under load; the rest is measured
SETTLE_S = 180.0  # three attempts of whatever was accepted last
WHOLE_S = 120.0
STEADY_S = 5.0
PEAK_FROM_S = 120.0  # shorter runs would do nothing else
SAMPLES, SAMPLE_EVERY_S = 7, 1.0
GONE_S = 20.0
LIBRARIES_OWN = ("pymp-", "torchinductor_")  # a socket's directory of Ray's dashboard, and an empty one of torch


def main() -> None:
    """Runs, prints the tables and one JSON line; status 1 where something was lost, leaked, wrong or grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", nargs="?", type=float, default=10.0, help="under load")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6), help="repeats a run's choices")
    options = parser.parse_args()
    console = Console(width=120)
    console.print(f"soak: {options.minutes:g} minutes, {options.clients} clients, seed {options.seed}")
    with ground() as root:
        with running(root, LOG) as service:
            findings = asyncio.run(Soak(service, options.minutes * 60, options.clients, options.seed, console).run())
        findings.after = _left_after(service)
        service.kill_all()
    print_report(findings, console)
    raise SystemExit(0 if findings.holds else 1)


class Soak:
    """One run against a service that is live.

    Args:
        duration_s: under load; rests come on top.
    """

    def __init__(self, service: Service, duration_s: float, clients: int, seed: int, console: Console) -> None:
        self._service, self._duration_s, self._clients, self._seed = service, duration_s, clients, seed
        self._console = console
        self._began_s = monotonic()

    async def run(self) -> Findings:
        service = self._service
        store = TaskStore(service.database_uri, DatabaseConfig(), TasksConfig(ttl_s=TTL_S))
        async with (
            Auditor(service.database_uri, service.data, self._duration_s / 20) as auditor,
            _beside(auditor.follow()),
        ):
            load = Load(service.base_url, store, auditor.ledger, await _material(service), self._seed)
            async with _beside(load.run(self._clients)):
                findings = await self._phases(load, auditor)
            await store.close()
        return findings

    async def _phases(self, load: Load, auditor: Auditor) -> Findings:
        injector = Injector(self._service, Random(f"{self._seed} victims"))
        load.open()
        self._say("faults under load")
        load.calm = False
        await self._break_things(injector)
        await self._until_whole()
        load.calm = True
        self._say("whole again; warm-up of those who live")
        if self._duration_s >= PEAK_FROM_S:
            await load.peak()
        await asyncio.sleep(WARM_UP_SHARE * self._duration_s)
        before = await self._rest(load, auditor)
        self._say("load, nothing broken")
        load.open()
        await asyncio.sleep((1 - FAULTS_SHARE - WARM_UP_SHARE) * self._duration_s)
        after = await self._rest(load, auditor)
        auditor.sizes.append(await auditor.size())
        return Findings(
            minutes=self._duration_s / 60,
            seed=self._seed,
            ledger=auditor.ledger,
            tally=load.tally,
            faults=injector.done,
            sizes=auditor.sizes,
            overdue=await auditor.overdue(),
            before=before,
            holdings=after,
            at_rest=await asyncio.to_thread(_left_at_rest, self._service),
        )

    async def _break_things(self, injector: Injector) -> None:
        faults_s = FAULTS_SHARE * self._duration_s
        pause_s = min(10.0, faults_s / 6)
        try:
            async with asyncio.timeout(faults_s):
                await injector.run(schedule(Random(f"{self._seed} faults"), (0.5 * pause_s, 1.5 * pause_s)))
        except TimeoutError:
            return

    async def _until_whole(self) -> None:
        """Every deployment has its replicas, the same for a while, and the service says that it is live."""
        deadline_s, since_s, replicas = monotonic() + WHOLE_S, monotonic(), set[int]()
        async with httpx.AsyncClient(base_url=self._service.base_url, timeout=5) as http:
            while monotonic() - since_s < STEADY_S or not replicas:
                found = await asyncio.to_thread(self._replicas) if await _is_live(http) else set()
                if found != replicas:
                    replicas, since_s = found, monotonic()
                if monotonic() > deadline_s:
                    raise SystemExit(f"the service was not whole again within {WHOLE_S:g} s; see {LOG}")
                await asyncio.sleep(0.5)

    def _replicas(self) -> set[int]:
        """All replicas' processes; none where one is missing."""
        found = {name: self._service.victims(name) for name in DEPLOYMENTS}
        if any(len(processes) < REPLICAS.get(name, 1) for name, processes in found.items()):
            return set()
        return {process.pid for processes in found.values() for process in processes}

    async def _rest(self, load: Load, auditor: Auditor) -> Holdings:
        """Lets everything end, and then says what each process holds."""
        load.close()
        deadline_s = monotonic() + SETTLE_S
        while (load.active or auditor.ledger.unfinished) and monotonic() < deadline_s:  # noqa: ASYNC110  two of them
            await asyncio.sleep(0.5)
        self._say(f"at rest: {auditor.ledger.accepted} accepted, {auditor.ledger.unfinished} unfinished")
        samples = []
        for _ in range(SAMPLES):
            await asyncio.sleep(SAMPLE_EVERY_S)
            samples.append(await asyncio.to_thread(soak_processes.sample, self._service))
        return soak_processes.medians(samples)

    def _say(self, what: str) -> None:
        self._console.print(f"{monotonic() - self._began_s:6.0f} s  {what}", highlight=False)


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `work`, which has no end, beside the block. Where it fails, so does the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        yield
        task.cancel()


async def _is_live(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/health")).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


async def _material(service: Service) -> Material:
    """Two songs in two formats, two that are none, and clips of a few seconds."""
    clips = [Clip(make_loop(bpm, bars, "rock", seed=bars)[None], 44_100) for bpm, bars in ((174.0, 10), (96.0, 6))]
    mp3 = await encode_mp3(clips[1], Limits())
    songs = (service.media.put("/a.wav", encode_wav(clips[0])), service.media.put("/b.mp3", mp3, "audio/mpeg"))
    none = (f"http://{service.media.host}/missing.wav", service.media.put("/text.wav", b"no music\n" * 5000))
    short = [encode_wav(Clip(clip.samples[:, : round(2.5 * clip.rate_hz)], clip.rate_hz)) for clip in clips]
    encoded = tuple(base64.b64encode(data).decode() for data in (*short, mp3))
    return Material(songs, none, encoded, UNFINISHED_TASKS)


def _left_at_rest(service: Service) -> Leftovers:
    return Leftovers(soak_processes.leftovers(service), soak_processes.stragglers(service))


def _left_after(service: Service) -> Leftovers:
    """Processes that outlived the service by GONE_S, and all files in its TMPDIR but those of libraries' own."""
    psutil.wait_procs(service.processes(), GONE_S)
    files = sorted(path.name for path in service.temporary.iterdir() if not path.name.startswith(LIBRARIES_OWN))
    return Leftovers(files, [name_of(process) for process in service.processes()])


if __name__ == "__main__":
    main()
