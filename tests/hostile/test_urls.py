"""Links of strangers: refused from their text, or fetched by the real downloader; only the listed host is asked."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gary.config import Limits, SourcesConfig
from gary.errors import ClientError, InvalidInput, RecoverableError
from gary.links import parse_link
from gary.sources.fetch import fetch
from tests.hostile.conftest import Ledger, Outside, Watch
from tests.hostile.far import Far, far_side

WATCH = "watch?v=dQw4w9WgXcQ"

# {port} is the port of a listener that must not be reached, {far} the one host that is listed.
REFUSED = [
    # user names
    f"https://user@www.youtube.com/{WATCH}",
    f"https://www.youtube.com@evil.tld/{WATCH}",
    f"https://www.youtube.com:443@127.0.0.1:{{port}}/{WATCH}",
    f"http://{{far}}@127.0.0.1:{{port}}/{WATCH}",
    f"http://127.0.0.1:{{port}}@{{far}}/{WATCH}",
    f"http://user:pass@{{far}}/{WATCH}",
    f"https://youtube.com%40127.0.0.1:{{port}}/{WATCH}",
    f"https://@www.youtube.com/{WATCH}",
    # names that look alike, or contain the right one
    f"https://www.youtube.com.evil.tld/{WATCH}",
    f"https://evil-youtube.com/{WATCH}",
    f"https://youtube.com.127.0.0.1.nip.io/{WATCH}",
    f"https://youtube.co/{WATCH}",
    f"https://youtube.com./{WATCH}",
    f"https://.youtube.com/{WATCH}",
    f"https://www..youtube.com/{WATCH}",
    f"https://youtube。com/{WATCH}",
    f"https://youtube．com/{WATCH}",
    f"https://уoutube.com/{WATCH}",
    f"https://youtubе.com/{WATCH}",
    f"https://ｙｏｕｔｕｂｅ.com/{WATCH}",
    f"https://xn--utube-4ve5h.com/{WATCH}",
    f"https://youtube.com\u200b/{WATCH}",
    f"https://you\u00adtube.com/{WATCH}",
    f"https://ⓨoutube.com/{WATCH}",
    f"https://youtube\u2044.com/{WATCH}",
    f"https://youtu.be.evil.tld/{WATCH}",
    "https://soundcloud.com.evil.tld/artist/track",
    "https://soundcIoud.com/artist/track",
    "https://api-v2.soundcloud.com/artist/track",
    # addresses, in all their spellings
    "http://127.0.0.1:{port}/a.wav",
    "http://127.0.0.2:{port}/a.wav",
    "http://127.1:{port}/a.wav",
    "http://127.0.1:{port}/a.wav",
    "http://0:{port}/a.wav",
    "http://0.0.0.0:{port}/a.wav",
    "http://2130706433:{port}/a.wav",
    "http://017700000001:{port}/a.wav",
    "http://0177.0.0.1:{port}/a.wav",
    "http://0x7f000001:{port}/a.wav",
    "http://0x7f.0.0.1:{port}/a.wav",
    "http://0x7f.1:{port}/a.wav",
    "http://127.0.0.1.:{port}/a.wav",
    "http://127.000.000.001:{port}/a.wav",
    "http://①②⑦.⓪.⓪.①:{port}/a.wav",
    "http://127。0。0。1:{port}/a.wav",
    "http://[::1]:{port}/a.wav",
    "http://[0:0:0:0:0:0:0:1]:{port}/a.wav",
    "http://[::ffff:127.0.0.1]:{port}/a.wav",
    "http://[::ffff:7f00:1]:{port}/a.wav",
    "http://[::127.0.0.1]:{port}/a.wav",
    "http://[64:ff9b::7f00:1]:{port}/a.wav",
    "http://[2002:7f00:1::]:{port}/a.wav",
    "http://[fe80::1%25lo]:{port}/a.wav",
    "http://[::1%25lo]:{port}/a.wav",
    "http://[::1/a.wav",
    "http://::1:{port}/a.wav",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://10.0.0.1/a.wav",
    "http://192.168.0.1/a.wav",
    # names of this machine, other ports of the listed host
    "http://localhost:{port}/a.wav",
    "http://localhost.localdomain:{port}/a.wav",
    "http://ip6-localhost:{port}/a.wav",
    "http://metadata.google.internal/a.wav",
    "http://{far}1/a.wav",
    "http://{far}:1/a.wav",
    f"https://www.youtube.com:{{port}}/{WATCH}",
    f"https://www.youtube.com:0/{WATCH}",
    f"https://www.youtube.com:99999/{WATCH}",
    f"https://www.youtube.com:-1/{WATCH}",
    f"https://www.youtube.com:４４３/{WATCH}",
    f"http://www.youtube.com:443/{WATCH}",
    # other schemes
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "ftp://127.0.0.1:{port}/a.wav",
    "gopher://127.0.0.1:{port}/_x",
    "dict://127.0.0.1:{port}/x",
    "data:audio/wav;base64,UklGRg==",
    "javascript:alert(1)",
    "concat:/etc/passwd|/etc/hosts",
    "rtmp://127.0.0.1:{port}/live",
    "unix:///var/run/docker.sock",
    "ytsearch:anything",
    "jar:http://127.0.0.1:{port}/a!/b",
    f"hTTps\u0131://www.youtube.com/{WATCH}",
    f"//www.youtube.com.evil.tld/{WATCH}",
    f"https:www.youtube.com/{WATCH}",
    f"https:///www.youtube.com/{WATCH}",
    # line breaks, control characters, backslashes
    f"https://www.youtube.com/{WATCH}\r\nHost: 127.0.0.1",
    f"https://www.you\ntube.com/{WATCH}",
    f"https://www.youtube.com/\x00{WATCH}",
    f"https://127.0.0.1:{{port}}\\@www.youtube.com/{WATCH}",
    f"https://www.youtube.com\\.evil.tld/{WATCH}",
    f"https://www.youtube.com /{WATCH}",
    f"https://www.youtube.com\t/{WATCH}",
    f"https://www.youtube.com\u2028/{WATCH}",
    f"https://\ufeffwww.youtube.com/{WATCH}",
    f"\u202ehttps://www.youtube.com/{WATCH}",
    f"https://www.youtube.com/{WATCH}\ud800",
    # percent signs, fragments, paths, queries
    f"https://www.youtube.com%2eevil.tld/{WATCH}",
    f"https://www.youtube.com%00.evil.tld/{WATCH}",
    f"https://www%2eyoutube%2ecom/{WATCH}",
    f"https://evil.tld#www.youtube.com/{WATCH}",
    f"https://evil.tld#@www.youtube.com/{WATCH}",
    f"https://evil.tld?@www.youtube.com/{WATCH}",
    f"https://www.youtube.com#@127.0.0.1:{{port}}/{WATCH}",
    "https://www.youtube.com/redirect?q=http%3A%2F%2F127.0.0.1%3A{port}",
    "https://www.youtube.com/attribution_link?u=//127.0.0.1:{port}/",
    "https://www.youtube.com/watch?v=../../../etc",
    "https://www.youtube.com/watch?v=dQw4w9WgXcQ%00",
    "https://www.youtube.com/watch?v=dQw4w9WgXcQ&v=dQw4w9WgXcR",
    "https://www.youtube.com/watch;v=dQw4w9WgXcQ",
    "https://www.youtube.com/oembed?url=http://127.0.0.1:{port}",
    "https://soundcloud.com/artist/../track",
    "https://soundcloud.com/artist/%2e%2e",
    "https://soundcloud.com/artist/track/s-x/../../..",
    "https://soundcloud.com//127.0.0.1:{port}/track",
    # size
    f"https://www.youtube.com/{WATCH}&x=" + "a" * 10_000,
    "http://" + "a." * 5_000 + f"youtube.com/{WATCH}",
    "http://" + "[" * 5_000,
    "%" * 10_000,
    "",
    "  ",
]


@pytest.mark.parametrize("template", REFUSED, ids=range(len(REFUSED)))
def test_links_that_are_not_served(template: str, outside: Outside, far: Far, ledger: Ledger) -> None:
    """Whatever is not exactly a served link is the client's fault, told from its text, with its code."""
    text = template.replace("{port}", str(outside.port)).replace("{far}", far.place)
    with pytest.raises(InvalidInput) as caught:
        parse_link(text, (far.place,))
    ledger.url("link", ascii(template)[1:57], caught.value.code)
    assert caught.value.code == "unsupported_url"
    assert far.asked == []


# Where a listed host sends us on to.
REDIRECTS = {
    "http://127.0.0.1:{port}/a.wav": "unsupported",
    "http://127.0.0.2:{port}/a.wav": "unsupported",
    "http://[::1]:{port}/a.wav": "unsupported",
    "http://[::ffff:127.0.0.1]:{port}/a.wav": "unsupported",
    "http://[::ffff:7f00:1]:{port}/a.wav": "unsupported",
    "http://2130706433:{port}/a.wav": "unsupported",
    "http://0x7f.1:{port}/a.wav": "unsupported",
    "http://017700000001:{port}/a.wav": "unsupported",
    "http://127.1:{port}/a.wav": "unsupported",
    "http://0:{port}/a.wav": "unsupported",
    "http://localhost:{port}/a.wav": "unsupported",
    "http://localhost/a.wav": "unsupported",
    "https://127.0.0.1:{port}/a.wav": "unsupported",
    "//127.0.0.1:{port}/a.wav": "unsupported",
    "http://user:pass@127.0.0.1:{port}/a.wav": "unsupported",
    "http://{far}@127.0.0.1:{port}/a.wav": "unsupported",
    "http://127.0.0.1:{port}\\@{far}/a.wav": "removed",  # read as a path of the listed host's
    "http://8.8.8.8/a.wav": "unsupported",  # public, and not listed
    "http://example.org/a.wav": "unsupported",
    "http://169.254.169.254/latest/meta-data/": "unsupported",
    "ftp://127.0.0.1:{port}/a.wav": "unsupported",
    "file://{canary}": "unsupported",
    "gopher://127.0.0.1:{port}/a.wav": "unsupported",
    "data:audio/wav;base64,UklGRg==": "unsupported",
    "http://127.0.0.1:{port}/" + "a" * 10_000: "unsupported",
    "http://127.0.0.1:99999/": "unsupported",
    "http://[::1": "unsupported",
    "/redirect-for-ever": "unsupported",
    # pages and lists that name somebody
    "/page": "unsupported",
    "/list.m3u8": "unsupported",
    "/manifest.mpd": "unsupported",
    "/feed": "unsupported",
    "/smil": "unsupported",
    "/refresh": "unsupported",
}


@pytest.fixture
def far() -> Iterator[Far]:
    with far_side() as server:
        yield server


async def _answer(url: str, listed: tuple[str, ...], timeout_s: float = 40.0) -> str:
    """The code of what happens to a link, `served`, or `!` and the class of what should not have been raised."""
    sources = SourcesConfig(allow_direct_urls=listed)
    limits = Limits(download_timeout_s=timeout_s)
    try:
        await fetch(parse_link(url, listed), 0.0, limits, sources)
    except (ClientError, RecoverableError) as error:
        return error.code
    return "served"


async def test_where_a_listed_host_leads_nobody_follows(
    outside: Outside, far: Far, ledger: Ledger, tmp_path: Path, nothing_left: None
) -> None:
    """A redirect, a page or a playlist of a listed host that names another host, an unlisted public one included, an
    address in any spelling, another scheme or a file is refused; only the listed host is asked."""
    canary = tmp_path / "canary.wav"
    canary.write_bytes(b"RIFFsecret")
    far.place_lures(f"http://127.0.0.1:{outside.port}/a.wav")
    turns = asyncio.Semaphore(2)

    async def one(index: int, template: str) -> str:
        target = template.replace("{port}", str(outside.port)).replace("{far}", far.place)
        url = f"http://{far.place}{far.send_on(index, target.replace('{canary}', str(canary)))}"
        async with turns:
            began_s = asyncio.get_running_loop().time()
            answer = await _answer(url, (far.place,))
            ledger.url("redirect", ascii(template)[1:57], answer, asyncio.get_running_loop().time() - began_s)
            return answer

    with Watch(frozenset()) as watch:
        answers = await asyncio.gather(*(one(index, template) for index, template in enumerate(REDIRECTS)))
    ledger.url("redirect", "all of these, two at a time", "watched", 0.0, watch.peak_mb)
    assert dict(zip(REDIRECTS, answers, strict=True)) == REDIRECTS
    assert all(path.startswith(("/on/", "/redirect-for-ever", "/a.wav", *far.files)) for path in far.asked)


# A mount namespace of one's own; who is not root gets it inside a user namespace.
ALONE = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"]

# Fetches links in a mount namespace whose /etc/hosts leads public names, listed or of a site, to this machine.
NAMES = """
import asyncio, json, subprocess, sys
from gary.config import Limits, SourcesConfig
from gary.errors import GaryError
from gary.links import parse_link
from gary.sources.fetch import fetch

hosts, links, listed = sys.argv[1], json.loads(sys.argv[2]), tuple(json.loads(sys.argv[3]))
subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)

async def one(url):
    try:
        sources = SourcesConfig(allow_direct_urls=listed)
        await fetch(parse_link(url, listed), 0.0, Limits(download_timeout_s=60), sources)
    except GaryError as error:
        return error.code
    return "served"

async def main():
    return [await one(url) for url in links]

print(json.dumps(asyncio.run(main())))
"""


async def test_names_that_lead_to_private_addresses(
    outside: Outside, ledger: Ledger, tmp_path: Path, nothing_left: None
) -> None:
    """A listed name, or a site's own, that the resolver leads to this machine or a private network is not reached, be
    it one address or several: what counts is the address at the moment of connecting."""
    hosts = tmp_path / "hosts"
    places = {
        "loopback.test": ["127.0.0.1"],
        "six.test": ["::1"],
        "mapped.test": ["::ffff:127.0.0.1"],
        "many.test": ["10.0.0.1", "127.0.0.1", "127.0.0.2", "::1"],
        "cloud.test": ["169.254.169.254"],
        "any.test": ["0.0.0.0"],
        "www.youtube.com": ["127.0.0.1", "::1"],
        "soundcloud.com": ["127.0.0.1", "::1"],
    }
    hosts.write_text("".join(f"{address} {name}\n" for name, found in places.items() for address in found))
    listed = [f"{name}:{outside.port}" for name in places if name.endswith(".test")]
    links = [f"http://{place}/a.wav" for place in listed]
    sites = [f"https://www.youtube.com/{WATCH}", "https://soundcloud.com/artist/track"]
    arguments = [str(hosts), json.dumps([*links, *sites]), json.dumps(listed)]
    child = await asyncio.create_subprocess_exec(
        *ALONE, sys.executable, "-c", NAMES, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    output = await child.stdout.read()
    assert await child.wait() == 0
    answers = json.loads(output)
    for url, answer in zip([*links, *sites], answers, strict=True):
        ledger.url("name", url[:56], answer)
    assert answers == ["unsupported"] * len(answers)


# A name that is public when it is looked at, and leads to this machine when it is connected to.
CHANGES = """
import socket, subprocess, sys
from pathlib import Path
from gary.sources.guard import AddressRefused, Guard, is_public

hosts, port = Path(sys.argv[1]), int(sys.argv[2])
subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
sys.addaudithook(Guard(None, None, (f"changes.test:{port}",)))
hosts.write_text("8.8.8.8 changes.test\\n")
assert is_public(socket.getaddrinfo("changes.test", port)[0][4][0])
hosts.write_text("127.0.0.1 changes.test\\n")
try:
    socket.create_connection(("changes.test", port))
except AddressRefused:
    print("refused")
"""


async def test_a_name_that_changes_between_look_and_connect(outside: Outside, ledger: Ledger, tmp_path: Path) -> None:
    """Under the guard of the fetching process a name that led to a public address is not followed to a private one."""
    hosts = tmp_path / "hosts"
    hosts.touch()
    child = await asyncio.create_subprocess_exec(
        *(*ALONE, sys.executable, "-c", CHANGES, str(hosts), str(outside.port)), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await child.communicate()
    ledger.url("name", "one that changes between look and connect", output.decode().strip())
    assert output == b"refused\n"


def test_the_listeners_can_be_reached(listeners: Outside) -> None:
    """What proves that nobody connected has to notice a connection."""
    listeners.contacts()
    for address in ("127.0.0.1", "127.0.0.2"):
        socket.create_connection((address, listeners.port)).close()
    assert listeners.contacts() == 2
