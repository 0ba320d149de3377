"""One cluster for all tests of this part: a head without a GPU, and nodes that declare one, on one machine.

Nodes are shaped by cluster.yaml and replicas ask for what serve_config.yaml says; the CPU does the work.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.houses import House, Landlord, Plan
from tests.faults.ledger import Report
from tests.media import MediaServer

PLAN = Plan(
    args={
        "default_model": "tiny",
        "models": [
            {"name": "tiny", "checkpoint": ".models/gary-tiny", "size": "tiny"},
            {"name": "rare", "checkpoint": ".models/gary-tiny-hf", "size": "rare"},
        ],
        # A machine that stands still for seconds is no lost worker: with the houses' usual 4 s a task was begun again.
        "tasks": {"lease_s": 30.0, "sweep_s": 0.5, "progress_s": 0.1},
    },
    gpu_nodes=2,
    replicas={"Ingress": 1, "Conductor": 1},
    autoscaling={
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 4,
        "metrics_interval_s": 0.5,
        "look_back_period_s": 2.0,
        "upscale_delay_s": 1.0,
        "downscale_delay_s": 10.0,  # what ends a load and begins the next calls fits into it
    },
)


@pytest.fixture(scope="session")
def report() -> Report:
    return Report(0)  # nothing here is left to chance


@pytest.fixture(scope="package")
def landlord(media: MediaServer) -> Iterator[Landlord]:
    landlord = Landlord(media)
    yield landlord
    landlord.leave()


@pytest.fixture(scope="package")
def house(landlord: Landlord) -> House:
    """Two GPU nodes and one replica of each of two sizes; tests add nodes, and leave it in one piece."""
    house = landlord.let(PLAN)
    house.wait_until_whole()
    return house
