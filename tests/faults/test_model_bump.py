"""A new model takes the place of an old one by `serve deploy`, step by step as in docs/operations.md."""

from __future__ import annotations

from typing import Any

import httpx

from tests.faults.houses import House, Landlord, Plan
from tests.faults.ledger import Report
from tests.faults.waiting import must

OLD = {"name": "dnb-1", "checkpoint": ".models/gary-tiny", "size": "tiny"}
NEW = {"name": "dnb-2", "checkpoint": ".models/gary-tiny-hf", "size": "tiny"}


def test_a_model_is_bumped(landlord: Landlord, report: Report) -> None:
    """Beside the old one, then the default, then alone. Nobody's task is begun again, whichever version it meets."""
    house = landlord.let(
        Plan(
            args={"models": [OLD], "default_model": OLD["name"]},
            replicas={"Ingress": 1, "Conductor": 1},
            own_database=False,
            dashboard=True,
        )
    )
    with house.case(report, "a model bump, by serve deploy", "generating") as case:
        house.doors.shut("generating")
        assert house.post(case).status_code == httpx.codes.OK
        must(lambda: house.doors.waiting("generating") == 1, "a task that plays")
        _deploy(house, OLD, NEW)
        # At once: the new ingress is there, and the model's new replica may not be.
        assert house.post(case, model=NEW["name"]).status_code == httpx.codes.OK
        house.doors.open("generating")
        must(lambda: house.books.all_ended(case.accepted), "the end of both")
        assert [_model(house, task_id) for task_id in case.accepted] == [OLD["name"], NEW["name"]]
        _deploy(house, NEW, OLD)
        assert house.post(case).status_code == httpx.codes.OK
        assert _model(house, case.accepted[-1]) == NEW["name"]
        assert house.post(case, model=OLD["name"]).status_code == httpx.codes.OK
        must(lambda: house.books.all_ended(case.accepted), "the end of one of each")
        _deploy(house, NEW)
        refused = house.post(case, model=OLD["name"])
        assert refused.status_code == httpx.codes.BAD_REQUEST
        assert house.post(case).status_code == httpx.codes.OK
    assert case.ends["completed"] == len(case.accepted)
    assert house.books.begun_again(case.accepted) == []
    house.check_nothing_leaks()


def _deploy(house: House, *models: dict[str, str]) -> None:
    """Deploys the service with these models, the first of them its default, and waits until it offers them."""
    house.ask("offer", models=models)
    wanted = [model["name"] for model in models]
    must(lambda: _offered(house) == (wanted[0], wanted), f"a service that offers {wanted}", 120)


def _offered(house: House) -> tuple[str, list[str]]:
    """The default model, and all of them."""
    answer: dict[str, Any] = house.http.get("/v1/models").json()
    return answer["default"], [model["name"] for model in answer["models"]]


def _model(house: House, task_id: str) -> str:
    return str(house.http.get(f"/tasks/{task_id}").json()["model"])
