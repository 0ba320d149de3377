"""All of the training in one command: `python -m training.chain --minutes 25`, on a machine that is lent for a while.

Each part is a process of its own and goes on where it was left, so the command may be repeated until all is done: on
the same machine bit by bit from its states, on another from what was carried there. At the end of every sitting the
weights (fp16), curves and verdicts lie in $OUT in a few pieces, where $OUT is set.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from time import monotonic

from training.codec import DECODER
from training.lm import LM
from training.run import Run, log
from training.setup import add_common, begin

CODEC_SHARE = 0.45  # of the minutes; the language model has the rest
PIECE_BYTES = 15_000_000  # what comes back from such a machine comes in files of at most 16 MiB
LEAST_MINUTES = 1.0  # what is left under this is not begun with
CARRIED = Path("out/carried")


def pack(run: Run, out: Path) -> list[Path]:
    """Puts what training can go on from into pieces of a tar file; the pieces."""
    weights = [file for part in (LM, DECODER) if (file := run.weights_file(part)).exists()]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for file in [*weights, *sorted(run.directory.glob("*.json*")), *sorted(run.directory.glob("*.png"))]:
            tar.add(file, arcname=file.name)
    content = archive.getvalue()
    pieces = []
    for number, start in enumerate(range(0, len(content), PIECE_BYTES)):
        pieces.append(out / f"training.tar.{number}")
        pieces[-1].write_bytes(content[start : start + PIECE_BYTES])
    return pieces


def unpack(carried: Path, run: Path) -> None:
    """Puts the pieces back together into a run; a run that is there already is left alone."""
    pieces = sorted(carried.glob("training.tar.*"), key=lambda piece: int(piece.suffix[1:]))
    if not pieces or any(run.glob("*.pt")):
        return
    run.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(b"".join(piece.read_bytes() for piece in pieces))) as tar:
        tar.extractall(run, filter="data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--batch", type=int, default=128, help="of the codec; the language model has a quarter of it")
    parser.add_argument("--frames", type=int, default=400_000, help="that the codebooks are made from")
    parser.add_argument("--judged-loops", type=int, default=100)
    parser.add_argument("--loops", type=int, default=60_000, help="that the language model learns from")
    parser.add_argument("--ungated", action="store_true", help="go on with a codec that loses the tempo")
    parser.set_defaults(minutes=25.0, sitting_minutes=9.0)
    options = parser.parse_args()
    unpack(CARRIED, options.run)
    run, device = begin(options)
    ends_s = monotonic() + 60 * options.sitting_minutes
    common = ["--run", str(options.run), "--device", device, "--workers", str(options.workers)]
    shares = {"codec": CODEC_SHARE * options.minutes, "lm": (1 - CODEC_SHARE) * options.minutes}
    own = {
        "codec": [
            *["--batch", str(options.batch), "--frames", str(options.frames)],
            *["--judged-loops", str(options.judged_loops)],
        ],
        "lm": ["--batch", str(options.batch // 4), "--loops", str(options.loops), *["--ungated"] * options.ungated],
    }
    verdict = options.run / "codec.json"
    try:
        for part, minutes in shares.items():
            left_minutes = (ends_s - monotonic()) / 60
            if left_minutes < LEAST_MINUTES:
                break
            if part == "codec" and verdict.exists():
                continue  # it is trained and judged
            budget = ["--minutes", str(minutes), "--sitting-minutes", str(left_minutes)]
            _run(part, [*common, *budget, *own[part]])
            if part == "codec" and not verdict.exists():
                break  # this sitting was not enough for it
        if run.weights_file(LM).exists():
            _run("export", common)
    finally:
        if out := os.environ.get("OUT"):
            log.info("in %s: %s", out, [piece.name for piece in pack(run, Path(out))])


def _run(part: str, arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-m", f"training.{part}", *arguments], check=True)


if __name__ == "__main__":
    main()
