"""Several nodes: who works where, who answers where, nodes that join and leave, replicas that come and go."""

from __future__ import annotations

import socket
from collections import Counter
from urllib.parse import urlsplit

import psutil

from tests.faults.houses import House
from tests.faults.ledger import Case, Report
from tests.faults.waiting import must, until

TINY, RARE = "MusicGen-tiny", "MusicGen-rare"
TARGET = 4  # calls in progress for each replica


def places(house: House, deployment: str) -> Counter[str]:
    """Living replicas of a deployment by node."""
    return Counter(each["node"] for each in house.ask("replicas") if each["deployment"] == deployment)


def states(house: House) -> dict[str, int]:
    found: dict[str, int] = house.ask("states", deployment=TINY)
    return found


def hold(house: House, case: Case, number: int) -> None:
    """Brings so many more tasks into their generation, and holds all of them there."""
    before = house.doors.waiting("generating")
    house.doors.shut("generating")
    for _ in range(number):
        assert house.post(case).status_code == 200
    came = until(lambda: house.doors.waiting("generating") == before + number, 90)
    statuses = dict(house.books.statuses(case.accepted))
    assert came, f"{house.doors.waiting('generating')} came to the door, {before} before; {statuses}; {states(house)}"


def check_never_cut(house: House, case: Case) -> None:
    """Every task was completed in its first attempt."""
    assert case.ends["completed"] == len(case.accepted)
    assert house.books.begun_again(case.accepted) == []


def test_work_lands_where_it_belongs(house: House, report: Report) -> None:
    """Each size has a GPU node to itself, and nothing else is there; both sizes answer."""
    gpu_nodes = set(house.ask("nodes"))
    sizes = places(house, TINY) + places(house, RARE)
    assert set(sizes) == gpu_nodes
    assert set(sizes.values()) == {1}
    for deployment in ("Ingress", "Conductor", "Fetcher", "Cropper"):
        assert places(house, deployment)
        assert not set(places(house, deployment)) & gpu_nodes
    with house.case(report, "nothing", "") as case:
        for model in ("tiny", "rare"):
            assert house.post(case, model=model).status_code == 200
    check_never_cut(house, case)


def test_a_proxy_answers_on_every_node(house: House) -> None:
    """Connections reach the proxy of each node, and each answers for the whole service."""
    nodes = set(house.ask("nodes"))
    must(lambda: nodes < set(house.ask("proxies")), "a proxy on every GPU node and on the head")
    proxies: dict[str, int] = house.ask("proxies")
    assert len(proxies) == len(nodes) + 1
    answered: set[int] = set()

    def all_answered() -> bool:
        answered.update(_answering(house) or ())
        return answered >= set(proxies.values())

    must(all_answered, "an answer of every proxy")


def _answering(house: House) -> set[int]:
    """The process that answers a new connection's question for the service's health."""
    url = urlsplit(str(house.http.base_url))
    assert url.hostname is not None
    with socket.create_connection((url.hostname, url.port or 80), timeout=30) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: gary\r\n\r\n")
        assert line.recv(12) == b"HTTP/1.1 200"
        here = line.getsockname()
        return {each.pid for each in psutil.net_connections("tcp") if each.raddr == here and each.pid}


def test_one_three_one(house: House, report: Report) -> None:
    """Load brings two replicas, on nodes that join meanwhile; when it goes so do they, after what they have begun."""
    with house.case(report, "load comes and goes", "generating") as case:
        hold(house, case, 3 * TARGET)
        before = set(house.ask("nodes"))
        must(lambda: sum(states(house).values()) == 3, "two more replicas asked for")
        joined = {house.ask("join"), house.ask("join")}
        must(lambda: states(house).get("RUNNING") == 3, "three replicas", 120)
        assert set(places(house, TINY)) - before == joined
        house.doors.open("generating")
        must(lambda: house.books.all_ended(case.accepted), "the end of the load")
        hold(house, case, 3)  # one each: the shortest queue goes first
        must(lambda: states(house).get("STOPPING") == 2, "two replicas on their way out", 60)
        assert states(house)["RUNNING"] == 1
        assert sum(places(house, TINY).values()) == 3, "they live as long as they work"
        assert house.books.statuses(case.accepted)["generating"] == 3
        house.doors.open("generating")
    check_never_cut(house, case)
    must(lambda: sum(places(house, TINY).values()) == 1, "one replica")


def test_a_node_leaves(house: House, report: Report) -> None:
    """Told that it must, it is replaced first, and goes when the generation that runs there has ended."""
    (node,) = places(house, TINY)
    if len(house.ask("nodes")) < 3:
        house.ask("join")
    with house.case(report, "a node leaves", "generating") as case:
        hold(house, case, 1)
        house.ask("drain", node=node)
        must(lambda: set(places(house, TINY)) - {node}, "a replica elsewhere", 120)
        assert node in places(house, TINY)
        house.doors.open("generating")
    check_never_cut(house, case)
    must(lambda: node not in places(house, TINY), "an empty node")
    house.ask("leave", node=node)
    house.wait_until_whole()
    with house.case(report, "a node has left", "") as after:
        assert house.post(after).status_code == 200
    check_never_cut(house, after)
