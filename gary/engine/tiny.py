"""Makes the checkpoints that stand in for real ones: `python -m gary.engine.tiny DIR`.

DIR is a directory of checkpoints and a hub home (`HF_HOME`) at once:

    gary-tiny/                               a MusicGen of a few MB, its EnCodec inside
    gary-tiny-hf/                            the same, but its EnCodec is only named: facebook/encodec_32khz
    hub/models--t5-base/                     the text encoder of both
    hub/models--facebook--encodec_32khz/     that codec, in transformers' class

Each part is there whole or not at all, says which recipe made it, and is made again only when the recipe has changed
or its bytes have. What somebody else has put in a part's place is never replaced. This file loads no torch until
something has to be made; the networks are `tiny_weights.py`.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from gary.engine.hub import use_hub
from gary.engine.imports import audiocraft_imports
from gary.errors import CheckpointError, GaryError

MANIFEST = "made-by-gary.json"
_STAGE = ".making-"
_REVISION = "0" * 40  # a hub cache names snapshots after commits; these have none


def make_checkpoints(directory: Path) -> None:
    """Makes what is missing or out of date in `directory`; quick and silent where nothing is.

    From then on this process uses `directory` as its hub home, offline, if anything had to be made.

    Raises:
        CheckpointError: a part's place is taken by something not made here, or the process already uses another hub
            home.
    """
    directory.mkdir(parents=True, exist_ok=True)
    recipe = _recipe()
    with _alone_in(directory):
        missing = [part for part in _PARTS if not _is_whole(directory / part, recipe)]
        if not missing:
            return
        _refuse_foreign(directory, missing)
        use_hub(directory, offline=True)
        _sweep(directory)
        with tempfile.TemporaryDirectory(dir=directory, prefix=_STAGE) as stage, audiocraft_imports():
            for part in missing:  # in order: a MusicGen is built with the text encoder that stands in its place
                made = Path(stage) / part
                _PARTS[part](made)
                _seal(made, recipe)
                _put(made, directory / part)


def _write_t5(part: Path) -> None:
    from gary.engine import tiny_weights

    tiny_weights.write_t5(_snapshot(part))


def _write_hub_codec(part: Path) -> None:
    from gary.engine import tiny_weights

    tiny_weights.write_hub_codec(_snapshot(part), tiny_weights.make_codec())


def _write_tiny(part: Path) -> None:
    from gary.engine import tiny_weights

    tiny_weights.write_lm(part)
    tiny_weights.write_codec(part, tiny_weights.make_codec())


def _write_tiny_hf(part: Path) -> None:
    from gary.engine import tiny_weights

    tiny_weights.write_lm(part)
    tiny_weights.write_codec_reference(part)


_PARTS: dict[str, Callable[[Path], None]] = {
    "hub/models--t5-base": _write_t5,
    "hub/models--facebook--encodec_32khz": _write_hub_codec,
    "gary-tiny": _write_tiny,
    "gary-tiny-hf": _write_tiny_hf,
}


def _snapshot(part: Path) -> Path:
    """Begins a hub cache entry whose `main` is one snapshot; that snapshot's directory."""
    (part / "refs").mkdir(parents=True)
    (part / "refs" / "main").write_text(_REVISION)
    snapshot = part / "snapshots" / _REVISION
    snapshot.mkdir(parents=True)
    return snapshot


def _recipe() -> str:
    """A digest of all that decides the weights: this code, and the libraries that draw and write them."""
    digest = hashlib.sha256()
    for source in (Path(__file__), Path(__file__).with_name("tiny_weights.py")):
        digest.update(source.read_bytes())
    for library in ("torch", "audiocraft", "transformers", "sentencepiece"):
        digest.update(f"{library} {version(library)}".encode())
    return digest.hexdigest()


def _digests(part: Path) -> dict[str, str]:
    """The digest of every file of a part, its manifest aside."""
    files = sorted(file for file in part.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {str(file.relative_to(part)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _seal(part: Path, recipe: str) -> None:
    for file in part.rglob("*"):  # transformers writes weights for their owner alone; a service may run as another user
        file.chmod(0o755 if file.is_dir() else 0o644)
    part.chmod(0o755)
    (part / MANIFEST).write_text(json.dumps({"recipe": recipe, "sha256": _digests(part)}, indent=1))


def _is_whole(part: Path, recipe: str) -> bool:
    """Whether each sealed file is there as it was written; what a hub client adds beside them is of no account."""
    try:
        manifest = json.loads((part / MANIFEST).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(manifest["recipe"] == recipe) and manifest["sha256"].items() <= _digests(part).items()


def _refuse_foreign(directory: Path, parts: list[str]) -> None:
    for part in parts:
        place = directory / part
        if place.exists() and not (place / MANIFEST).exists():
            raise CheckpointError(f"{place} holds something that was not made here: choose another directory")


def _sweep(directory: Path) -> None:
    """Removes what a killed maker has left; with the lock held, no other is at work."""
    for left in directory.glob(f"{_STAGE}*"):
        shutil.rmtree(left)


def _put(made: Path, place: Path) -> None:
    """Moves a part to its place, the former one out of the way."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(made.with_name(made.name + ".former"))
    made.rename(place)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Two makers in one directory take turns: the second finds everything made."""
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gary.engine.tiny", description="Makes the tiny checkpoints.")
    parser.add_argument("directory", type=Path, help="where they go; made if it is not there")
    try:
        make_checkpoints(parser.parse_args().directory)
    except GaryError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
