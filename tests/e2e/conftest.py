"""What several of these tests send to the service, and by what."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.files import encode_wav
from gary.client import Client
from tests.running import Running


@pytest.fixture(scope="module")
def client(service: Running) -> Iterator[Client]:
    with Client(service.base_url) as client:
        yield client


@pytest.fixture(scope="session")
def song() -> bytes:
    """About 5.5 s, mono, 44.1 kHz."""
    return encode_wav(Clip(make_loop(174.0, 4, "drum-and-bass", rate_hz=44_100, seed=2)[None], 44_100))
