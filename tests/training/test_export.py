"""The checkpoint of the demo model's real shapes, untrained: small enough, and loaded and played as every other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.running import ROOT
from training.chain import PIECE_BYTES, pack, unpack
from training.export import LIMIT_BYTES, NAME, bytes_of, export_run
from training.run import Run

# A process of its own for each: a process has one hub home, and that of the tests is another.
PLAY = """
import asyncio, json, sys
from pathlib import Path
import numpy as np
from gary.audio.clip import Clip
from gary.config import MIB, EngineConfig
from gary.engine.batching import BatchingEngine
from gary.engine.request import AudioStretch, GenerationRequest
from training.loops import make_loop

home = Path(sys.argv[1])
engine = BatchingEngine.start(
    str(home / "gary-demo"),
    EngineConfig(device="cpu", precision="fp32", slots=2, cache_bytes=256 * MIB, hub_cache_dir=home, hub_offline=True),
)

async def listen(description):
    prompt = Clip(make_loop(0).played(32_000)[None], 32_000)
    events = engine.generate(GenerationRequest("a", 2.0, 1, description), prompt)
    return np.concatenate([event.clip.samples[0] async for event in events if isinstance(event, AudioStretch)])

drums = asyncio.run(listen("drums only"))
engine.close()
print(json.dumps({
    "samples": len(drums),
    "finite": bool(np.isfinite(drums).all()),
    "peak": float(np.abs(drums).max()),
}))
"""


@dataclass(frozen=True)
class Exported:
    run: Path
    home: Path


def python(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    run = tmp_path_factory.mktemp("run")
    python("-m", "training.export", "--run", str(run), "--untrained", "--device", "cpu")
    return Exported(run, run / "models")


def test_the_checkpoint_is_small(exported: Exported) -> None:
    """Both halves and the text encoder take at most 30 MB, and are fp16 on disk."""
    assert 20_000_000 < bytes_of(exported.home) <= LIMIT_BYTES
    for half in ("state_dict.bin", "compression_state_dict.bin"):
        state = torch.load(exported.home / NAME / half, weights_only=True)["best_state"]
        assert {weight.dtype for weight in state.values()} == {torch.float16}


def test_the_engine_plays_it(exported: Exported) -> None:
    """It goes through the loader and the engine of every other model: as long as asked, and audible."""
    heard = json.loads(python("-c", PLAY, str(exported.home)).splitlines()[-1])
    assert heard["samples"] == 2 * 32_000
    assert heard["finite"]
    assert heard["peak"] > 0


def test_what_is_not_trained_is_not_exported(tmp_path: Path) -> None:
    """Without trained weights there is no checkpoint, unless one without training is asked for."""
    with pytest.raises(FileNotFoundError, match=r"decoder\.pt.*lm\.pt"):
        export_run(Run(tmp_path), untrained=False)
    assert not (tmp_path / "models").exists()


def test_weights_travel_in_pieces(tmp_path: Path) -> None:
    """What is packed comes out as it was, in pieces under the limit; a run that is there is not overwritten."""
    here, out, there = (tmp_path / name for name in ("here", "out", "there"))
    here.mkdir()
    out.mkdir()
    contents = {
        "decoder.pt": os.urandom(PIECE_BYTES + 1000),
        "lm.pt": b"weights",
        "lm.jsonl": b"{}",
        "codec.json": b"{}",
    }
    for name, content in contents.items():
        (here / name).write_bytes(content)
    (here / "lm.state.pt").write_bytes(b"far too large")
    pieces = pack(Run(here), out)
    assert len(pieces) == 2
    assert all(piece.stat().st_size <= PIECE_BYTES for piece in pieces)
    unpack(out, there)
    assert {file.name: file.read_bytes() for file in there.iterdir()} == contents
    (there / "lm.pt").write_bytes(b"newer")
    unpack(out, there)
    assert (there / "lm.pt").read_bytes() == b"newer"
