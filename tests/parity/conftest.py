"""The engine under test, one a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gary.config import EngineConfig
from gary.engine.batching import BatchingEngine
from tests.parity.asking import FP32, TINY
from tests.parity.models import tiny_model


@pytest.fixture(scope="module")
def engine() -> Iterator[BatchingEngine]:
    tiny_model()
    engine = BatchingEngine.start(TINY, EngineConfig.model_validate(FP32))
    yield engine
    engine.close()
