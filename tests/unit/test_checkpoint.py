"""Checkpoints: both forms of codec load, nothing in them runs, and the tiny ones are made alike every time."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gary.engine.checkpoint import load, read_weights_only
from gary.engine.hub import use_hub
from gary.engine.tiny import MANIFEST, make_checkpoints
from gary.errors import CheckpointError

MODELS = Path(__file__).parents[2] / ".models"
FILES = ("state_dict.bin", "compression_state_dict.bin")


@pytest.fixture(scope="module")
def models() -> Path:
    """The tiny checkpoints as installation makes them; one hub home for the whole test process."""
    use_hub(MODELS, offline=True)  # before anything that imports the hub's libraries
    make_checkpoints(MODELS)
    return MODELS


@pytest.fixture
def checkpoint(models: Path, tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be spoilt."""
    return Path(shutil.copytree(models / "gary-tiny", tmp_path / "checkpoint"))


class Trap:
    """An object whose unpickling makes a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self._file,)


def manifests(directory: Path) -> dict[str, Any]:
    return {str(file.relative_to(directory)): json.loads(file.read_text()) for file in directory.rglob(MANIFEST)}


def said(code: str, models: Path) -> list[str]:
    """The lines that a process of its own prints that is given the tiny checkpoint."""
    command = [sys.executable, "-c", code, str(models / "gary-tiny")]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout.splitlines()


_IS_LET_GO = """
import gc, sys, weakref
from gary.engine.checkpoint import load

def loaded():
    model = load(sys.argv[1], "cpu")
    return weakref.ref(model)

model = loaded()
gc.collect()
assert model() is None
"""


def test_a_process_keeps_nothing_of_its_first_model(models: Path) -> None:
    """xformers, once imported, keeps an error and all calls below its import; a loader must not be among them."""
    said(_IS_LET_GO, models)


_HEAVY = (
    "xformers spacy torchmetrics sklearn matplotlib librosa.filters pandas dora av audiocraft.solvers "
    "torch._dynamo torch.distributed.tensor sympy"
)
_LEAVES_OUT = f"""
import sys
from gary.engine.checkpoint import load
load(sys.argv[1], "cpu")
print([name for name in {_HEAVY.split()} if name in sys.modules])
"""


def test_loading_a_model_imports_nothing_for_others(models: Path) -> None:
    """Importing those takes longer than importing all the rest."""
    assert said(_LEAVES_OUT, models) == ["[]"]


_REFERENCE = """
import sys
from gary.engine.checkpoint import load
model = load(sys.argv[1], "cpu")
model.set_generation_params(duration=0.1)
print(model.generate(["drums"]).shape)
print("xformers" in sys.modules)
"""


def test_audiocraft_itself_still_generates(models: Path) -> None:
    """Its attention takes one function of xformers, which comes when it is called."""
    assert said(_REFERENCE, models) == ["torch.Size([1, 1, 3200])", "True"]


def test_both_forms_of_codec_are_one_network(models: Path) -> None:
    """The codec inside a checkpoint and the one that a checkpoint names have equal codes and equal sound."""
    own, named = (load(str(models / name), "cpu") for name in ("gary-tiny", "gary-tiny-hf"))
    assert type(own.compression_model).__name__ == "EncodecModel"
    assert type(named.compression_model).__name__ == "HFEncodecCompressionModel"
    audio = torch.rand(1, 1, 32000, generator=torch.Generator().manual_seed(1)) - 0.5  # [B, C, N]
    with torch.no_grad():
        own_codes, named_codes = (model.compression_model.encode(audio)[0] for model in (own, named))
    assert own_codes.shape == (1, 4, 50)
    assert len(set(own_codes.flatten().tolist())) > 20, "codes that hear nothing would hide a difference"
    torch.testing.assert_close(named_codes, own_codes, rtol=0, atol=0)
    torch.testing.assert_close(named.generate_audio(own_codes), own.generate_audio(own_codes), rtol=0, atol=1e-6)


def test_sizes_are_those_of_musicgen(models: Path) -> None:
    """What clients and engine rely on is as in the real models: rate, frames, codebooks, window, codec in use."""
    model = load(str(models / "gary-tiny"), "cpu")
    assert (model.sample_rate, model.frame_rate, model.audio_channels, model.max_duration) == (32000, 50, 1, 30)
    assert (model.lm.n_q, model.lm.card, model.compression_model.num_codebooks) == (4, 2048, 4)
    with torch.no_grad():
        sound = model.generate_audio(torch.randint(2048, (1, 4, 100)))
    assert 0.02 < float(sound.std()) < 0.3
    assert float(sound.abs().max()) < 1


def test_making_repairs_what_is_broken_alike_and_in_silence(models: Path, tmp_path: Path) -> None:
    """Parts that are missing or damaged are made again, byte for byte; whole ones are left; nothing is said."""
    copy = Path(shutil.copytree(models, tmp_path / "models"))
    (copy / "gary-tiny" / "state_dict.bin").write_bytes(b"cut off")
    (copy / "gary-tiny-hf" / MANIFEST).write_text("{")
    shutil.rmtree(copy / "hub")
    (copy / ".making-killed").mkdir()
    command = [sys.executable, "-m", "gary.engine.tiny", str(copy)]

    made = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    assert manifests(copy) == manifests(models)
    assert not (copy / ".making-killed").exists()
    written = (copy / "gary-tiny" / "state_dict.bin").stat().st_mtime_ns
    subprocess.run(command, check=True)
    assert (copy / "gary-tiny" / "state_dict.bin").stat().st_mtime_ns == written


def test_foreign_files_are_never_replaced(tmp_path: Path) -> None:
    """A real t5-base in the place of the tiny one stays, and making says why it stopped."""
    weights = tmp_path / "hub" / "models--t5-base" / "weights"
    weights.parent.mkdir(parents=True)
    weights.write_text("real")
    with pytest.raises(CheckpointError, match="not made here"):
        make_checkpoints(tmp_path)
    assert weights.read_text() == "real"


@pytest.mark.parametrize("name", FILES)
def test_code_in_a_checkpoint_is_refused_and_not_run(checkpoint: Path, tmp_path: Path, name: str) -> None:
    """A checkpoint that would make a file when unpickled is refused, and there is no such file."""
    caught = tmp_path / "caught"
    torch.save({"best_state": Trap(caught), "xp.cfg": ""}, checkpoint / name)
    with pytest.raises(CheckpointError, match="more than weights"):
        load(str(checkpoint), "cpu")
    assert not caught.exists()


def test_code_in_a_codec_that_a_checkpoint_names_is_refused_and_not_run(checkpoint: Path, tmp_path: Path) -> None:
    """The same where the pickle is a plain one, in a file that the checkpoint only names."""
    caught, codec = tmp_path / "caught", tmp_path / "codec.bin"
    codec.write_bytes(pickle.dumps(Trap(caught), protocol=2))
    torch.save({"pretrained": str(codec), "exported": True}, checkpoint / "compression_state_dict.bin")
    with pytest.raises(CheckpointError, match="more than weights"):
        load(str(checkpoint), "cpu")
    assert not caught.exists()
    pickle.loads(codec.read_bytes())
    assert caught.exists(), "the trap itself must work, or this test shows nothing"


def test_an_environment_that_asks_for_code_is_refused() -> None:
    """Torch can be told by a variable to run pickles: then nothing is loaded; without it, the opposite is forced."""
    environ = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    with pytest.raises(CheckpointError, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        read_weights_only(environ)
    environ = {}
    read_weights_only(environ)
    assert environ == {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}


@pytest.mark.parametrize(
    "checkpoint_name", ["", "debug", "small", "https://example.org/model.bin", "../away", "away/not-there", __file__]
)
def test_a_name_that_leads_nowhere_is_a_checkpoint_error(models: Path, checkpoint_name: str) -> None:
    """Neither audiocraft's short names nor addresses nor files are taken, and an absent repository is no crash."""
    with pytest.raises(CheckpointError):
        load(checkpoint_name, "cpu")


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_without_one_of_its_files_says_which(checkpoint: Path, name: str) -> None:
    """The message names the file that is missing."""
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        load(str(checkpoint), "cpu")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:5000]),
        lambda file: file.write_bytes(b"no checkpoint at all"),
        lambda file: torch.save([1, 2], file),
        lambda file: torch.save({"best_state": {}}, file),
        lambda file: torch.save({"best_state": {}, "xp.cfg": "a: [", "exported": True}, file),
        lambda file: torch.save({**torch.load(file), "best_state": {}}, file),
    ],
    ids=["empty", "cut", "text", "list", "no-config", "bad-yaml", "no-weights"],
)
def test_a_malformed_checkpoint_is_a_checkpoint_error(checkpoint: Path, spoil: Callable[[Path], object]) -> None:
    """However a file is spoilt, what comes out is one of our errors, naming the checkpoint."""
    spoil(checkpoint / "state_dict.bin")
    with pytest.raises(CheckpointError, match="checkpoint"):
        load(str(checkpoint), "cpu")


def test_the_hub_home_is_settled_once(models: Path, tmp_path: Path) -> None:
    """After the hub's libraries were imported another home is refused; the same one again is not."""
    load(str(models / "gary-tiny"), "cpu")
    with pytest.raises(CheckpointError, match="HF_HOME"):
        use_hub(tmp_path, offline=True)
    use_hub(models, offline=True)
