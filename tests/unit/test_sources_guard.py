"""What the fetching process may touch: addresses and programs."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import deno
import pytest

from gary.sources.guard import AddressRefused, Guard, ProgramRefused, is_public
from gary.sources.protocol import Job


@pytest.mark.parametrize(
    "host",
    ["8.8.8.8", "142.250.185.78", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
)
def test_public_addresses_are_reached(host: str) -> None:
    """The public internet is public, also where its IPv4 part is written inside an IPv6 address."""
    assert is_public(host)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16", "198.18.0.1", "203.0.113.5"),
        *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
        *(
            "::",
            "::1",
            "fe80::1",
            "fe80::1%1",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff0e::1",
            "2001:db8::1",
            "2001::1",
        ),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::1"),
        *("localhost", "example.org", "127.1", "2130706433", ""),
    ],
)
def test_other_addresses_are_not(host: str) -> None:
    """Loopback, private, link-local, shared, multicast, reserved and cloud-internal addresses are not public, in no
    notation; nor is a name, for it would be resolved after the check."""
    assert not is_public(host)


@pytest.mark.parametrize("event", ["socket.connect", "socket.sendto", "socket.sendmsg"])
@pytest.mark.parametrize("address", [("10.0.0.1", 80), ("localhost", 80), "/run/docker.sock", b"\0name", (16, 0)])
def test_every_way_to_reach_an_address_is_guarded(event: str, address: object) -> None:
    """Connecting and sending to what is not public is refused, whatever the family of the socket."""
    with pytest.raises(AddressRefused):
        Guard(None, None)(event, (object(), address))


def test_a_listed_address_is_reached_at_its_own_port_only() -> None:
    """What the operator listed is an address and a port, and no other port of that host is reached."""
    guard = Guard(("127.0.0.1", 8400), None)
    guard("socket.connect", (object(), ("127.0.0.1", 8400)))
    guard("socket.sendmsg", (object(), None))
    for address in [("127.0.0.1", 8401), ("127.0.0.2", 8400), ("::1", 8400, 0, 0)]:
        with pytest.raises(AddressRefused):
            guard("socket.connect", (object(), address))


@pytest.mark.parametrize(
    ("host", "port", "listed"),
    [
        ("files.example.org", 80, True),
        (b"FILES.example.org", 443, True),
        ("www.site.example", 443, True),
        ("site.example", 443, True),
        ("127.0.0.1", 8400, True),
        ("::1", 8400, True),
        ("files.example.org", 8080, False),
        ("www.files.example.org", 443, False),
        ("evil-site.example", 443, False),
        ("site.example.evil.tld", 443, False),
        ("127.0.0.1", 80, False),
        ("8.8.8.8", 443, False),
        ("", 443, False),
        (None, 443, False),
        ("files.example.org", "80", False),
    ],
)
def test_only_listed_names_are_looked_up(host: object, port: object, listed: bool) -> None:
    """A name is asked for only if it, or what it lies below, is listed, at the ports of the web or at its own."""
    guard = Guard(None, None, ("files.example.org", ".site.example", "127.0.0.1:8400", "[::1]:8400"))
    with contextlib.nullcontext() if listed else pytest.raises(AddressRefused):
        guard("socket.getaddrinfo", (host, port, 0, 0, 0))


@pytest.mark.parametrize(
    ("event", "args"),
    [
        ("subprocess.Popen", ("/usr/bin/ffmpeg", ["ffmpeg"], None, None)),
        ("subprocess.Popen", (b"deno", ["deno"], None, None)),
        ("os.system", (b"true",)),
        ("os.exec", ("/opt/deno", [], None)),
        ("os.posix_spawn", ("/opt/deno", [], {})),
        ("os.fork", ()),
    ],
)
def test_no_program_but_one_is_started(event: str, args: tuple[Any, ...]) -> None:
    """Only the JavaScript runtime may be started, by its whole path and through subprocess."""
    guard = Guard(None, "/opt/deno")
    guard("subprocess.Popen", ("/opt/deno", ["deno"], None, None))
    with pytest.raises(ProgramRefused):
        guard(event, args)


_CONFINED = """
import json, socket, subprocess, sys
from gary.sources.child import _confine
from gary.sources.guard import Guard
from gary.sources.protocol import Job
from yt_dlp import YoutubeDL

job = Job.model_validate_json(sys.stdin.read())
_confine(job)
sys.addaudithook(Guard(None, str(job.deno_path)))
found = {}
with YoutubeDL({"quiet": True, "js_runtimes": {"deno": {"path": str(job.deno_path)}}}) as downloader:
    found["deno"] = downloader._js_runtimes["deno"].info.supported
script = "console.log(6 * 7); try { await fetch('http://127.0.0.1:8999') } catch (e) { console.log(e.name) }"
found["answer"] = subprocess.run(
    [str(job.deno_path), "run", "--no-prompt", "-"], input=script, capture_output=True, text=True
).stdout
for name, act in {
    "program": lambda: subprocess.run(["/bin/true"]),
    "socket": lambda: socket.create_connection(("127.0.0.1", 9)),
}.items():
    try:
        act()
    except PermissionError as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""


def test_the_confined_process_runs_deno_and_nothing_else(tmp_path: Path) -> None:
    """Under the limits and the guard of the fetching process the real deno starts, computes and has no network; another
    program and a private address are refused."""
    job = Job(
        site="youtube",
        url="https://www.youtube.com/watch?v=dQw4w9WgXcQ",
        start_s=0,
        job_dir=tmp_path,
        download_bytes=1 << 20,
        source_duration_s=60,
        timeout_s=30,
        parent_pid=os.getpid(),
        hosts=(),
        deno_path=Path(deno.find_deno_bin()),
    )
    run = subprocess.run(
        [sys.executable, "-c", _CONFINED],
        input=job.model_dump_json(),
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "YTDLP_NO_PLUGINS": "1", "DENO_NO_UPDATE_CHECK": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {
        "deno": True,
        "answer": "42\nNotCapable\n",
        "program": "ProgramRefused",
        "socket": "AddressRefused",
    }
