"""What never ends: each ends within its time, with its code, and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gary.config import MIB, Limits, SourcesConfig
from gary.errors import ClientError, RecoverableError
from gary.links import parse_link
from gary.sources.fetch import fetch
from tests.hostile.conftest import Ledger, Watch, descendants

TIMEOUT_S = 5.0
SLACK_S = 5.0  # for starting and killing processes on a busy machine

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\n"


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _headers_trickled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD)
    while True:
        await _send(writer, b"X-More: 1\r\n", pause_s=0.2)


async def _status_trickled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await _send(writer, b"H", pause_s=0.2)


async def _body_trickled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"Content-Length: 100000\r\n\r\n")
    while True:
        await _send(writer, b"R", pause_s=0.2)


async def _redirects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Each to a place not seen before, so that no loop is noticed."""
    line = await reader.readuntil(b"\r\n\r\n")
    place = line.split()[1] + b"0"
    writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\nLocation: " + place + b"\r\n\r\n")


async def _endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"\r\n")
    while True:
        await _send(writer, bytes(1 << 16))


async def _endless_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"X-Long: ")
    while True:
        await _send(writer, b"a" * (1 << 16))


async def _chunks_of_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        await _send(writer, b"1\r\nR\r\n", pause_s=0.2)


async def _chunk_of_an_exabyte(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n")
    while True:
        await _send(writer, bytes(1 << 16))


@functools.cache
def _packed_zeros(start: bytes, size_mib: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packer.compress(start) + b"".join(packer.compress(bytes(MIB)) for _ in range(size_mib)) + packer.flush()


async def _gzip_bomb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")  # unread it would have the connection reset
    packed = _packed_zeros(b"RIFF", 600)
    length = str(len(packed)).encode()
    await _send(writer, HEAD + b"Content-Encoding: gzip\r\nContent-Length: " + length + b"\r\n\r\n" + packed)
    await reader.read()


async def _gzip_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")  # unread it would have the connection reset
    head = HEAD.replace(b"audio/wav", b"text/html") + b"Connection: close\r\nContent-Encoding: gzip\r\n\r\n"
    await _send(writer, head + _packed_zeros(b"<html>", 600))


async def _send(writer: asyncio.StreamWriter, data: bytes, pause_s: float = 0.0) -> None:
    writer.write(data)
    await writer.drain()
    await asyncio.sleep(pause_s)


STAGES: dict[str, tuple[Serve, set[str]]] = {
    "accepts and is silent": (_silent, {"timeout"}),
    "a status line that goes on": (_status_trickled, {"timeout", "upstream"}),
    "headers, one at a time": (_headers_trickled, {"timeout", "upstream"}),
    "a header that goes on": (_endless_header, {"upstream"}),
    "a body, byte by byte": (_body_trickled, {"timeout"}),
    "chunks of a byte": (_chunks_of_nothing, {"timeout"}),
    "a chunk of an exabyte": (_chunk_of_an_exabyte, {"too_large", "timeout"}),
    "redirects without end": (_redirects, {"unsupported"}),
    "a body without end": (_endless, {"too_large", "timeout"}),
    "gzip: a file of 600 MB": (_gzip_bomb, {"too_large"}),
    "gzip: a page of 600 MB": (_gzip_page, {"too_large", "timeout", "unsupported"}),
}


@asynccontextmanager
async def _serving(serve: Serve) -> AsyncIterator[str]:
    """A server on loopback that treats every connection so; the tasks of its connections end with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await serve(reader, writer)
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@pytest.mark.parametrize("stage", STAGES)
async def test_a_fetch_that_hangs(stage: str, ledger: Ledger, nothing_left: None) -> None:
    """Whatever a server holds back, or sends without end, the fetch is over in its time, with its code."""
    serve, expected = STAGES[stage]
    for start in (b"RIFF", b"<html>"):
        _packed_zeros(start, 600)  # now: it takes seconds, which would be of the fetch's time
    limits = Limits(download_timeout_s=TIMEOUT_S, download_bytes=64 * MIB)
    async with _serving(serve) as place:
        sources = SourcesConfig(allow_direct_urls=(place,))
        link = parse_link(f"http://{place}/a.wav", sources.allow_direct_urls)
        with Watch(frozenset(descendants())) as watch, pytest.raises((ClientError, RecoverableError)) as caught:
            await fetch(link, 0.0, limits, sources)
    ledger.url("hangs", stage, caught.value.code, watch.duration_s, watch.peak_mb)
    assert caught.value.code in expected
    assert watch.duration_s < TIMEOUT_S + SLACK_S


# An ffmpeg that does not end, will not be told to, and has tried to leave a child behind.
STAND_IN = """#!/usr/bin/perl
$SIG{TERM} = $SIG{INT} = $SIG{HUP} = "IGNORE";
my $child = fork();
if (defined $child and $child == 0) { setpgrp(0, 0); }
sleep(1000) while 1;
"""

# Decodes with whatever ffmpeg is first on PATH, as a process of its own: what it finds is kept for its lifetime.
DECODES = """
import asyncio, sys
from gary.audio.files import decode
from gary.config import Limits
from gary.errors import MediaError

async def main():
    print("begun", flush=True)
    try:
        await decode(b"RIFF" * 100, Limits(ffmpeg_timeout_s=float(sys.argv[1])))
    except MediaError as error:
        print(error.code)

asyncio.run(main())
"""


@asynccontextmanager
async def _decoding(folder: Path, timeout_s: float) -> AsyncIterator[asyncio.subprocess.Process]:
    stand_in = folder / "ffmpeg"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DECODES, str(timeout_s)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def _stand_ins() -> list[int]:
    """All processes of this machine that run the stand-in."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (entry / "stat").read_text().rpartition(") ")[2][0]
            if b"ffmpeg\0-nostdin" in (entry / "cmdline").read_bytes() and state != "Z":
                found.append(int(entry.name))
    return found


async def _until_it_runs(before: list[int]) -> None:
    async with asyncio.timeout(20):
        while set(_stand_ins()) <= set(before):  # noqa: ASYNC110  nothing tells of another's child
            await asyncio.sleep(0.01)


async def _until_gone(before: list[int]) -> None:
    async with asyncio.timeout(20):
        while not set(_stand_ins()) <= set(before):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_an_ffmpeg_that_hangs_is_killed_in_its_time(tmp_path: Path, ledger: Ledger) -> None:
    """It ignores every polite signal and tries to fork: when its time is up it is gone, and the file is refused."""
    before = _stand_ins()
    with Watch(frozenset(descendants())) as watch:
        async with _decoding(tmp_path, timeout_s=2.0) as process:
            await _until_it_runs(before)
            output, _ = await process.communicate()
    ledger.file("hangs", "an ffmpeg that does not end", output.split()[-1].decode(), watch.duration_s, watch.peak_mb)
    assert output.split() == [b"begun", b"timeout"]
    assert set(_stand_ins()) <= set(before)
    assert watch.duration_s < 2.0 + SLACK_S


async def test_an_ffmpeg_that_hangs_dies_with_its_parent(tmp_path: Path) -> None:
    """When the worker is killed outright, so that it can end nothing, its ffmpeg goes all the same."""
    before = _stand_ins()
    async with _decoding(tmp_path, timeout_s=600.0) as process:
        await _until_it_runs(before)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await _until_gone(before)
