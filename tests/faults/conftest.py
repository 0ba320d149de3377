"""The houses of the suite, and its table: one line a case, and one JSON line last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random, SystemRandom

import pytest

from tests.faults.houses import House, Landlord
from tests.faults.ledger import Report
from tests.media import MediaServer

_REPORT = pytest.StashKey[Report]()
_SEED = "GARY_FAULTS_SEED"  # repeats a run's choices; the table names it


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_REPORT] = Report(int(os.environ.get(_SEED) or SystemRandom().randrange(10**6)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Never two Rays at once: these have their own, so they come before the tests that share the session's.

    Among these, those that share a house come first.
    """
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    fixtures = getattr(item, "fixturenames", ())
    if "landlord" in fixtures:
        return 1 if "house" in fixtures else 2
    return 3 if "ray_running" in fixtures else 0


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.stash[_REPORT].holds:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    report = terminalreporter.config.stash[_REPORT]
    if report.cases:
        terminalreporter.section("faults")
        for case in report.cases:
            terminalreporter.write_line(str(case))
        terminalreporter.write_line(report.json_line())


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    return pytestconfig.stash[_REPORT]


@pytest.fixture
def chance(report: Report, request: pytest.FixtureRequest) -> Random:
    """The same for the same test and seed."""
    return Random(f"{report.seed} {request.node.name}")


@pytest.fixture(scope="package")
def landlord(media: MediaServer) -> Iterator[Landlord]:
    landlord = Landlord(media)
    yield landlord
    landlord.leave()


@pytest.fixture
def house(landlord: Landlord) -> House:
    """The one that all share who leave it as they found it."""
    house = landlord.shared()
    house.wait_until_whole()
    return house
