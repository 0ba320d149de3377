"""What the children could do if their own checks failed: nothing. And what happens when the disk is full."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gary.audio import confine
from gary.audio.ffmpeg import run_ffmpeg
from gary.errors import RecoverableError
from tests.hostile.conftest import Outside
from tests.hostile.media_files import tone, wav
from tests.media import media_server
from tests.running import ROOT


@pytest.fixture
def lowered() -> tuple[str, ...]:
    """Runs what is appended as confine.py runs ffmpeg."""
    return (sys.executable, "-I", "-S", confine.__file__, str(os.getpid()), "10", str(2 << 30), "0")


def _confined(lowered: tuple[str, ...], *command: str, data: bytes = b"") -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryFile() as source:
        source.write(data)
        source.seek(0)
        return subprocess.run([*lowered, *command], stdin=source, capture_output=True, text=True, check=False, env={})


def test_this_kernel_confines() -> None:
    """Where the part is run seccomp and Landlock are there, so the tests below test them."""
    assert confine.missing() == ()


@pytest.mark.parametrize("protocol", ["http", "tcp", "udp", "rtp", "tls"])
async def test_ffmpeg_has_no_network(protocol: str, outside: Outside) -> None:
    """An ffmpeg that is told outright to open an address, with every protocol allowed, gets no socket."""
    with tempfile.TemporaryFile() as source:
        arguments = ["-t", "1", "-i", f"{protocol}://127.0.0.1:{outside.port}/a.wav", "-f", "null", "-"]
        done = await run_ffmpeg(arguments, source, None, 20.0, 1000)
    assert done.status != 0
    assert outside.contacts() == 0


async def test_ffmpeg_reads_no_file(tmp_path: Path) -> None:
    """An ffmpeg that is told outright to read a file gets none, its standard input aside, and writes none."""
    canary, target = tmp_path / "canary.wav", tmp_path / "target.wav"
    canary.write_bytes(wav(tone()))
    with tempfile.TemporaryFile() as source:
        source.write(canary.read_bytes())
        own = await run_ffmpeg(["-i", "file:/dev/stdin", "-f", "au", "pipe:1"], source, None, 20.0, 1 << 20)
        other = await run_ffmpeg(["-i", f"file:{canary}", "-f", "au", "pipe:1"], source, None, 20.0, 1 << 20)
        writing = await run_ffmpeg(["-i", "file:/dev/stdin", str(target)], source, None, 20.0, 1 << 20)
    assert own.status == 0
    assert len(own.output) > 80_000
    assert other.status != 0
    assert "Permission denied" in other.complaint
    assert other.output == b""
    assert writing.status != 0
    assert not target.exists()


def test_no_second_process_no_group_of_its_own_no_signal(lowered: tuple[str, ...]) -> None:
    """The confined process cannot fork, leave its group or session, signal its parent or look into it."""
    script = (
        "use POSIX; my $p = fork(); print defined $p ? 1 : 0;"
        "print setpgrp(0, 0) ? 1 : 0; print POSIX::setsid() > 0 ? 1 : 0; print kill(0, getppid()) ? 1 : 0;"
        'print open(my $f, "<", "/proc/" . getppid() . "/environ") ? 1 : 0;'
    )
    done = _confined(lowered, "/usr/bin/perl", "-e", script)
    assert done.stdout == "00000", done


def test_the_system_keeps_its_secrets(lowered: tuple[str, ...]) -> None:
    """Neither the list of users nor this repository can be read; standard input can."""
    for path in ("/etc/passwd", __file__, "/proc/1/environ"):
        done = _confined(lowered, "/usr/bin/cat", path)
        assert (done.returncode, done.stdout) == (1, "")
    assert _confined(lowered, "/usr/bin/cat", "/dev/stdin", data=b"audio").stdout == "audio"


def test_what_cannot_be_executed_has_a_status_of_its_own(lowered: tuple[str, ...], tmp_path: Path) -> None:
    """So a missing program is told apart from one that failed."""
    assert _confined(lowered, str(tmp_path / "nothing")).returncode == confine.CANNOT_EXECUTE


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_well_formed(machine: str) -> None:
    """On every machine that is known: whole instructions, jumps that stay inside, and a last one that answers."""
    code = list(
        struct.iter_unpack("=HBBI", confine._filter(machine, confine.NETWORK + confine.GROUP + confine.PROCESSES))
    )
    for place, (kind, if_true, if_false, _) in enumerate(code):
        assert kind & 0x07 != 0x05 or place + 1 + max(if_true, if_false) < len(code)
    assert code[-1][0] == 0x06


# In a small file system of its own, or where files may not grow: what a full disk answers, for each use of it.
FULL = """
import asyncio, json, os, sys, tempfile
from pathlib import Path
import numpy as np
from gary.audio.clip import Clip
from gary.audio.files import decode, encode_mp3
from gary.config import Limits, SourcesConfig
from gary.errors import GaryError
from gary.links import parse_link
from gary.sources.fetch import fetch

tempfile.tempdir, place = sys.argv[1], sys.argv[2]
noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 48_000 * 30)).astype(np.float32)

async def answer(work):
    try:
        await work
    except GaryError as error:
        return [type(error).__name__, error.code]
    return ["served", ""]

async def fetched():
    listed = (place,)
    link = parse_link(f"http://{place}/a.wav", listed)
    return await fetch(link, 0.0, Limits(download_timeout_s=60), SourcesConfig(allow_direct_urls=listed))

async def main():
    found = {}
    found["decode"] = await answer(decode(bytes(4 << 20), Limits()))
    found["encode"] = await answer(encode_mp3(Clip(noise, 48_000)))
    found["fetch"] = await answer(fetched())
    filled = Path(sys.argv[1], "filled")
    with filled.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    found["fetch, not a byte left"] = await answer(fetched())
    filled.unlink()
    found["left"] = os.listdir(sys.argv[1])
    print(json.dumps(found))

asyncio.run(main())
"""


def test_a_full_disk_is_an_error_that_passes(tmp_path: Path) -> None:
    """Decoding, encoding and fetching into a file system of 1 MiB, and into one without a free byte, each end with
    `disk_full`, another attempt may succeed, and nothing is left there."""
    script = tmp_path / "full.py"
    script.write_text(FULL)
    folder = tmp_path / "small"
    folder.mkdir()
    mounts = 'mount -t tmpfs -o size=1m,mode=700 tmpfs "$1" && exec "$2" "$3" "$1" "$4"'
    alone = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    with media_server() as media:
        media.put("/a.wav", bytes(8 << 20))
        command = [*alone, "sh", "-c", mounts, "sh", str(folder), sys.executable, str(script), media.host]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    assert done.returncode == 0, done.stderr
    full = [RecoverableError.__name__, "disk_full"]
    expected: dict[str, object] = dict.fromkeys(("decode", "encode", "fetch", "fetch, not a byte left"), full)
    assert json.loads(done.stdout) == {**expected, "left": []}
