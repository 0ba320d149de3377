"""The simulation against queueing theory, where that is exact."""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.pools import Job, Network, Pool, Visit

Times = NDArray[np.float64]


def poisson_s(rate_per_s: float, count: int, seed: int) -> Times:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_s, count))


def sojourns_s(pool: Pool, at_s: Times, work: Times, cores: float = float("inf")) -> Times:
    """From each job's coming to its end."""
    jobs = [Job(at, (Visit((0,), each),)) for at, each in zip(at_s.tolist(), work.tolist(), strict=True)]
    return np.array(Network([pool], cores).run(jobs)) - at_s


def test_one_server_is_lindleys_recursion() -> None:
    """Job by job: each waits for what was left of the one before it."""
    at_s, work = poisson_s(0.8, 2000, seed=1), np.random.default_rng(2).uniform(0.1, 1.9, 2000)
    gaps_s = np.diff(at_s)
    waits_s = [0.0]
    for before, gap_s in zip(work[:-1].tolist(), gaps_s.tolist(), strict=True):
        waits_s.append(max(0.0, waits_s[-1] + before - gap_s))
    assert sojourns_s(Pool(1), at_s, work) == pytest.approx(np.array(waits_s) + work)


def test_mean_wait_of_fixed_work() -> None:
    """M/D/1: rho / (2 (1 - rho)) of the work, by Pollaczek and Khinchine."""
    rho = 0.7
    at_s = poisson_s(rho, 100_000, seed=3)
    wait_s = sojourns_s(Pool(1), at_s, np.ones_like(at_s)).mean() - 1
    assert wait_s == pytest.approx(rho / (2 * (1 - rho)), rel=0.05)


def test_mean_wait_at_several_servers() -> None:
    """M/M/c: Erlang's C over (c - load)."""
    servers, load = 4, 3.0
    at_s, work = poisson_s(load, 100_000, seed=4), np.random.default_rng(5).exponential(1.0, 100_000)
    busy = load**servers / factorial(servers) * servers / (servers - load)
    waits = busy / (sum(load**jobs / factorial(jobs) for jobs in range(servers)) + busy)
    wait_s = (sojourns_s(Pool(servers), at_s, work) - work).mean()
    assert wait_s == pytest.approx(waits / (servers - load), rel=0.05)


def test_a_shared_processor() -> None:
    """M/G/1-PS: the mean time is work / (1 - rho) whatever the work's spread; by speed, and by cores that run short."""
    rho = 0.6
    at_s, work = poisson_s(rho, 60_000, seed=6), np.random.default_rng(7).exponential(1.0, 60_000)
    by_speed = sojourns_s(Pool(speed=lambda jobs: 1 / jobs), at_s, work)
    assert by_speed.mean() == pytest.approx(1 / (1 - rho), rel=0.05)
    by_cores = sojourns_s(Pool(cores=float), at_s, work, cores=1.0)
    assert by_cores == pytest.approx(by_speed)


def test_a_job_goes_where_fewest_are() -> None:
    """Of two servers the free one is taken, and the stages follow each other."""
    visits = (Visit((0, 1), 2.0), Visit((2,), 1.0))
    ends_s = Network([Pool(1), Pool(1), Pool()]).run([Job(at_s, visits) for at_s in (0.0, 0.5, 0.6)])
    assert ends_s == pytest.approx([3.0, 3.5, 5.0])  # the third waits for the first
