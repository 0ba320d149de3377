"""Which links are served: the table of media.md, and what no text may get past it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gary.errors import InvalidInput
from gary.links import LENGTH_MAX, Link, parse_link

LISTED = ("files.example.org", "127.0.0.1:8400", "[::1]:8400", "Loops.example.org:81")
VIDEO = "https://www.youtube.com/watch?v=dQw4w9WgXcQ"
TRACK = "https://soundcloud.com/an-artist/a_track-2"


@pytest.mark.parametrize(
    "text",
    [
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ",
        "http://youtube.com/watch?v=dQw4w9WgXcQ",
        "https://m.youtube.com/watch?feature=share&v=dQw4w9WgXcQ#t=10",
        "https://music.youtube.com/watch?v=dQw4w9WgXcQ&si=abc",
        "https://www.youtube.com/watch/?v=dQw4w9WgXcQ",
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ&list=PLabc&index=3&t=42s",
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ&v=dQw4w9WgXcQ",
        "https://www.youtube.com/shorts/dQw4w9WgXcQ",
        "https://www.youtube.com/embed/dQw4w9WgXcQ?autoplay=1",
        "https://www.youtube.com/live/dQw4w9WgXcQ/",
        "https://youtu.be/dQw4w9WgXcQ?t=42",
        "HTTPS://WWW.YouTube.COM:443/watch?v=dQw4w9WgXcQ",
        "youtube.com/watch?v=dQw4w9WgXcQ",
        "  youtu.be/dQw4w9WgXcQ\n",
        "youtube.com/watch?v=dQw4w9WgXcQ&next=http://elsewhere.example",
    ],
)
def test_a_video_is_rebuilt_from_its_id(text: str) -> None:
    """Every form of link to a video becomes the one form; nothing but the id is kept, a list beside it is dropped."""
    assert parse_link(text, LISTED) == Link("youtube", VIDEO)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://soundcloud.com/an-artist/a_track-2", TRACK),
        ("http://www.soundcloud.com/an-artist/a_track-2/", TRACK),
        ("m.soundcloud.com/an-artist/a_track-2?si=1&in=an-artist/sets/x", TRACK),
        ("https://soundcloud.com/an-artist/a_track-2/s-8Pjrp", f"{TRACK}/s-8Pjrp"),
    ],
)
def test_a_track_is_rebuilt_from_its_path(text: str, url: str) -> None:
    """Of a SoundCloud link artist, track and the secret of an unlisted track are kept."""
    assert parse_link(text, LISTED) == Link("soundcloud", url)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8400/loop.wav", "http://127.0.0.1:8400/loop.wav"),
        ("http://[::1]:8400/loop.wav", "http://[::1]:8400/loop.wav"),
        ("https://FILES.example.org", "https://files.example.org/"),
        ("https://files.example.org:443/a.wav", "https://files.example.org/a.wav"),
        ("http://loops.example.org:81/a", "http://loops.example.org:81/a"),
        (
            "https://files.example.org/a%20b/ü.wav?x=1&y=ö#part",
            "https://files.example.org/a%20b/%C3%BC.wav?x=1&y=%C3%B6",
        ),
    ],
)
def test_a_listed_host_is_served_directly(text: str, url: str) -> None:
    """A link whose host, or host and port, the operator listed is kept, in ASCII and without its fragment."""
    assert parse_link(text, LISTED) == Link("direct", url)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "music",
        "https://",
        "https://www.youtube.com/",
        "https://www.youtube.com/watch",
        "https://www.youtube.com/watch?v=short",
        "https://www.youtube.com/watch?v=dQw4w9WgXcQx",
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ&v=oHg5SJYRHA0",
        "https://www.youtube.com/watch?v=dQw4w9WgXc%0a",
        "https://www.youtube.com/playlist?list=PLabc",
        "https://www.youtube.com/embed/videoseries?list=PLabc",
        "https://www.youtube.com/embed/live_stream?channel=UCabc",
        "https://www.youtube.com/@someone",
        "https://www.youtube.com/redirect?q=http://127.0.0.1/",
        "https://youtu.be/",
        "https://youtu.be/watch?v=dQw4w9WgXcQ",
        "https://www.youtube.com:8443/watch?v=dQw4w9WgXcQ",
        "http://www.youtube.com:443/watch?v=dQw4w9WgXcQ",
        "https://www.youtube.com:99999/watch?v=dQw4w9WgXcQ",
        "https://www.youtube.com./watch?v=dQw4w9WgXcQ",
        "https://user@www.youtube.com/watch?v=dQw4w9WgXcQ",
        "https://www.youtube.com@evil.example/watch?v=dQw4w9WgXcQ",
        "https://evil.example\\@www.youtube.com/watch?v=dQw4w9WgXcQ",
        "https://www.youtube.com.evil.example/watch?v=dQw4w9WgXcQ",
        "https://notyoutube.com/watch?v=dQw4w9WgXcQ",
        "https://evil.example/https://www.youtube.com/watch?v=dQw4w9WgXcQ",
        "https://ｙoutube.com/watch?v=dQw4w9WgXcQ",
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ evil",
        "https://www.you\ttube.com/watch?v=dQw4w9WgXcQ",
        "https://www.youtube.com/watch?v=dQw4\nw9WgXcQ",
        "https://[::1/watch?v=dQw4w9WgXcQ",
        "ftp://www.youtube.com/watch?v=dQw4w9WgXcQ",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "ytsearch:dQw4w9WgXcQ",
        "https://soundcloud.com/an-artist",
        "https://soundcloud.com/an-artist/sets",
        "https://soundcloud.com/an-artist/sets/a-list",
        "https://soundcloud.com/an-artist/likes",
        "https://soundcloud.com/discover/x",
        "https://api.soundcloud.com/tracks/123",
        "https://on.soundcloud.com/abc",
        "http://127.0.0.1/loop.wav",
        "http://127.0.0.1:8401/loop.wav",
        "http://127.1:8400/loop.wav",
        "http://2130706433:8400/loop.wav",
        "http://0x7f.0.0.1:8400/loop.wav",
        "http://files.example.org:8080/loop.wav",
        "http://loops.example.org/loop.wav",
        "http://sub.files.example.org/loop.wav",
        "http://files.example.org@127.0.0.1:9/loop.wav",
        "ftp://files.example.org/loop.wav",
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ&x=" + "a" * LENGTH_MAX,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """What is not on the list is a client's fault with a code and a sentence that says what would be right."""
    with pytest.raises(InvalidInput, match=r"watch\?v=") as caught:
        parse_link(text, LISTED)
    assert caught.value.code == "unsupported_url"


def test_nothing_is_direct_unless_listed() -> None:
    """Without a list only the sites are served."""
    with pytest.raises(InvalidInput):
        parse_link("https://files.example.org/a.wav", ())


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8400/a", ("127.0.0.1", 8400)),
        ("http://[::1]:8400/a", ("::1", 8400)),
        ("https://8.8.8.8/a", ("8.8.8.8", 443)),
        ("https://files.example.org/a", None),
    ],
)
def test_a_literal_address_is_told_apart_from_a_name(url: str, address: tuple[str, int] | None) -> None:
    """Only a URL that spells an IP address has a literal address, and the port is the scheme's where none is given."""
    assert Link("direct", url).literal_address() == address


_SERVED = re.compile(
    r"https://www\.youtube\.com/watch\?v=[A-Za-z0-9_-]{11}"
    r"|https://soundcloud\.com/[A-Za-z0-9_-]+/[A-Za-z0-9_-]+(/s-[A-Za-z0-9]+)?"
    r"|https?://files\.example\.org/[!-~]*"
    r"|https?://(127\.0\.0\.1:8400|\[::1\]:8400|loops\.example\.org:81)/[!-~]*"
)
_PIECES = st.sampled_from(
    [
        *(
            "http://",
            "https://",
            "ftp://",
            "//",
            "/",
            "\\",
            "@",
            ":",
            "?",
            "#",
            "&",
            "%",
            "..",
            "[",
            "]",
            " ",
            "\t",
            "\n",
        ),
        *("youtube.com", "www.youtube.com", "youtu.be", "soundcloud.com", "files.example.org", "127.0.0.1", "::1"),
        *(":8400", ":443", ":80", "user:pass@", "/watch", "v=", "dQw4w9WgXcQ", "/shorts/", "/artist/track", "/s-x1"),
    ]
)


@given(st.lists(_PIECES | st.text(max_size=3), max_size=10).map("".join))
def test_whatever_is_sent_is_on_the_list_or_refused(text: str) -> None:
    """For any text the answer is a link of a served form, which parses to itself again, or InvalidInput."""
    try:
        link = parse_link(text, LISTED)
    except InvalidInput:
        return
    assert _SERVED.fullmatch(link.url)
    assert parse_link(link.url, LISTED) == link
