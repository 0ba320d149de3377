"""What /v1 tells about the service itself."""

from __future__ import annotations

from gary.config import Limits
from gary.tasks.music import TAKES_MAX
from tests.api.conftest import Api, OpenApi


async def test_models(api: Api) -> None:
    """Each as the config lists it, with its limits, and whether anybody plays it."""
    answer = (await api.http.get("/v1/models")).json()
    assert answer["default"] == "facebook/musicgen-small"
    tiny = next(model for model in answer["models"] if model["name"] == "gary-tiny")
    assert tiny == {
        "name": "gary-tiny",
        "size": "tiny",
        "description": None,
        "licence": tiny["licence"],
        "loaded": True,
        "replicas_ready": 1,
        "max_total_s": 140.0,
        "max_new_s": 120.0,
    }


async def test_limits(open_api: OpenApi) -> None:
    """All of them, with the units in their names."""
    async with open_api(Limits(clips=5)) as api:
        answer = (await api.http.get("/v1/limits")).json()
    assert answer == {**Limits(clips=5).model_dump(), "takes": TAKES_MAX}
