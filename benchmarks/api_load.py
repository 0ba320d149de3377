"""A closed loop of GETs: so many clients, each asking again as soon as it is answered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from statistics import quantiles
from time import perf_counter

import aiohttp


@dataclass(frozen=True)
class Load:
    """What a load met; milliseconds are of one request."""

    rps: float
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return f"{self.rps:.0f}/s, p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms"


async def get_load(url: str, clients: int, duration_s: float) -> Load:
    """Asks for `url` for `duration_s` seconds; every answer must be a 200.

    Raises:
        aiohttp.ClientError: one was not.
    """
    times_s: list[float] = []
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as session:
        await _client(session, url, perf_counter() + 0.5, [])  # warms up
        since_s = perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(_client(session, url, since_s + duration_s, times_s))
        took_s = perf_counter() - since_s
    cuts = quantiles(times_s, n=100)
    return Load(len(times_s) / took_s, 1e3 * cuts[49], 1e3 * cuts[98])


async def _client(session: aiohttp.ClientSession, url: str, until_s: float, times_s: list[float]) -> None:
    while (since_s := perf_counter()) < until_s:
        async with session.get(url) as answer:
            await answer.read()
        times_s.append(perf_counter() - since_s)
