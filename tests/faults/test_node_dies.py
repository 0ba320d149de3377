"""A cluster of three nodes on one machine loses one, with everything that runs there."""

from __future__ import annotations

from collections import Counter
from random import Random

import psutil

from tests.faults.houses import Landlord, Plan
from tests.faults.journey import Journey
from tests.faults.ledger import Report

TWICE = {"Ingress": 2, "Conductor": 2, "Fetcher": 2, "Cropper": 2, "MusicGen-tiny": 2}
HELD = ("storing", "encoding", "generating", "fetching")


def test_a_node_of_three_dies(landlord: Landlord, report: Report, chance: Random) -> None:
    """Its raylet and every worker under it are killed at once: its tasks move to the nodes that are left."""
    house = landlord.let(Plan(nodes=3, replicas=TWICE))
    with house.case(report, "kill -9 a node of three", ", ".join(reversed(HELD))) as case:
        journey = Journey(house, case, per_point=2)
        for point in HELD:
            journey.hold_at(point)
        raylets = house.ask("nodes")
        replicas = Counter(replica["node"] for replica in house.ask("replicas"))
        node = chance.choice([node for node in sorted(raylets) if replicas[node]])
        raylet = psutil.Process(raylets[node])
        node_processes = [*raylet.children(recursive=True), raylet]
        for process in node_processes:
            process.suspend()
        for process in node_processes:
            process.kill()
        journey.go_on()
        case.note = f"{replicas[node]} of {sum(replicas.values())} replicas were there"
    assert case.ends["completed"] == len(case.accepted)
    house.wait_until_whole()
    house.check_nothing_leaks()
