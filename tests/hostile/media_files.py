"""Files that strangers may send, made here: bytes, and what the service answers to them.

`OK` is audio that is served; everything else is a code of ours.
"""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from gary.audio.ffmpeg import find_ffmpeg

OK = "served"
RATE_HZ = 44_100

# What ffmpeg itself writes, for each kind of container that is accepted.
CONTAINERS = {
    "wav": ["-c:a", "pcm_s16le"],
    "w64": ["-c:a", "pcm_s16le"],
    "aiff": ["-c:a", "pcm_s16be"],
    "au": ["-c:a", "pcm_s16be"],
    "caf": ["-c:a", "pcm_s16le"],
    "voc": ["-c:a", "pcm_u8"],
    "flac": ["-c:a", "flac"],
    "ogg": ["-c:a", "libvorbis"],
    "opus": ["-c:a", "libopus"],
    "mp3": ["-c:a", "libmp3lame"],
    "aac": ["-c:a", "aac"],
    "ac3": ["-c:a", "ac3"],
    "eac3": ["-c:a", "eac3"],
    "wv": ["-c:a", "wavpack"],
    "tta": ["-c:a", "tta"],
    "m4a": ["-c:a", "aac"],
    "mp4": ["-c:a", "alac"],
    "mka": ["-c:a", "flac"],
    "webm": ["-c:a", "libopus"],
    "wma": ["-c:a", "wmav2"],
    "ts": ["-c:a", "aac"],
}


def ffmpeg(*arguments: str, source: bytes = b"") -> None:
    command = [str(find_ffmpeg()), "-nostdin" if not source else "-hide_banner", "-v", "error", "-y", *arguments]
    subprocess.run(command, input=source or None, check=True, stdin=None if source else subprocess.DEVNULL)


def whole_files(folder: Path) -> dict[str, bytes]:
    """Two seconds of sound in every container, by one run of ffmpeg."""
    outputs: list[str] = []
    for name, arguments in CONTAINERS.items():
        outputs += ["-map", "0:a", *arguments, "-strict", "-2", str(folder / f"whole.{name}")]
    ffmpeg("-f", "lavfi", "-i", "sine=frequency=331:duration=2:sample_rate=48000", *outputs)
    return {name: (folder / f"whole.{name}").read_bytes() for name in CONTAINERS}


def wav(samples: NDArray[np.float32], rate_hz: int = RATE_HZ) -> bytes:
    """A 16-bit WAV of samples [N] or [N, C]."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype="PCM_16")
    return file.getvalue()


def tone(duration_s: float = 1.0) -> NDArray[np.float32]:
    samples: NDArray[np.float32] = np.sin(0.05 * np.arange(round(duration_s * RATE_HZ))).astype(np.float32)
    return samples


def riff(channels: int, rate_hz: int, bits: int, data: bytes, kind: int = 1, says: int | None = None) -> bytes:
    """A WAV whose header says whatever it is told to."""
    block = channels * bits // 8 & 0xFFFF
    head = struct.pack("<HHIIHH", kind, channels, rate_hz, rate_hz * block & 0xFFFFFFFF, block, bits)
    size = len(data) if says is None else says
    return (
        b"RIFF"
        + struct.pack("<I", size + 36 & 0xFFFFFFFF)
        + b"WAVEfmt \x10\0\0\0"
        + head
        + b"data"
        + (struct.pack("<I", size) + data)
    )


def cut_and_damaged(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes, set[str]]]:
    """Each container broken off at two places, and with damaged bytes, both at its head and all over."""
    noise = np.random.default_rng(4)
    for name, data in whole.items():
        any_answer = {
            OK,
            "not_audio",
            "too_short",
            "unsupported_rate",
            "unsupported_channels",
            "no_audio",
            "too_costly",
        }
        yield f"{name}: its first 60 bytes", data[:60], {"not_audio", "too_short", "no_audio"}
        yield f"{name}: half of it", data[: len(data) // 2], {OK, "not_audio"}
        head = bytearray(data)
        for place in noise.integers(4, min(400, len(data)), 40):
            head[place] = noise.integers(256)
        yield f"{name}: a damaged head", bytes(head), any_answer
        all_over = np.frombuffer(data, np.uint8).copy()
        all_over[noise.integers(64, len(data), len(data) // 50)] ^= 0xFF
        yield f"{name}: damaged all over", all_over.tobytes(), any_answer


def headers_that_lie(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes, set[str]]]:
    some = bytes(200_000)
    yield "wav: no channel", riff(0, RATE_HZ, 16, some), {"not_audio"}
    yield "wav: 65,535 channels", riff(65_535, RATE_HZ, 16, some), {"not_audio", "unsupported_channels"}
    yield "wav: 64 channels", riff(64, RATE_HZ, 16, some), {"unsupported_channels"}
    yield "wav: 0 Hz", riff(1, 0, 16, some), {"not_audio"}
    yield "wav: 1 Hz", riff(1, 1, 16, some), {"unsupported_rate"}
    yield "wav: 4,294,967,295 Hz", riff(1, 0xFFFFFFFF, 16, some), {"not_audio"}
    yield "wav: 2,147,483,647 Hz", riff(1, 0x7FFFFFFF, 16, some), {"unsupported_rate", "not_audio"}
    yield "wav: 0 bits", riff(1, RATE_HZ, 0, some), {"not_audio", OK}
    yield "wav: 65,535 bits", riff(1, RATE_HZ, 65_535, some), {"not_audio"}
    yield "wav: a codec that is not there", riff(1, RATE_HZ, 16, some, kind=0xABCD), {"not_audio"}
    yield "wav: says 4 GiB", riff(1, RATE_HZ, 16, some, says=0xFFFFFFF0), {OK}
    yield "wav: says no bytes", riff(1, RATE_HZ, 16, some, says=0), {OK, "not_audio"}
    yield "wav: says more than there is", riff(1, RATE_HZ, 16, some, says=10**9), {OK}
    yield "wav: a chunk of 4 GiB first", _with_chunk(whole["wav"], 0xFFFFFFFF), {"not_audio"}
    yield "wav: 20,000 chunks", _with_chunks(whole["wav"], 20_000), {OK}
    yield (
        "mp4: an atom of 2^63 bytes",
        _mp4_box(b"ftyp", b"M4A \0\0\0\0") + b"\0\0\0\1moov" + b"\x7f" + b"\xff" * 7,
        {"not_audio", "no_audio"},
    )
    yield "mp4: an atom of no size", _mp4_box(b"ftyp", b"M4A ") + b"\0\0\0\0moov" + bytes(5000), {"not_audio"}
    yield "mp4: 60,000 atoms within each other", _nested_boxes(60_000), {"not_audio"}
    yield "mp4: tables of 2^32 entries", _with_huge_tables(whole["m4a"]), {"not_audio", OK, "too_short"}
    yield "flac: a picture of 16 MiB", _flac_picture(whole["flac"], (1 << 24) - 1), {"not_audio", OK}
    yield "flac: blocks of 65,535 samples, 655,350 Hz", _flac_head(whole["flac"]), {OK, "unsupported_rate", "not_audio"}
    yield "mp3: 100 MB of ID3 claimed", b"ID3\x04\0\0" + _syncsafe(100_000_000) + whole["mp3"], {"not_audio"}
    yield (
        "mp3: an ID3 frame of 256 MB",
        b"ID3\x04\0\0" + _syncsafe(20) + b"APIC" + _syncsafe((1 << 28) - 1) + bytes(12) + whole["mp3"],
        {OK, "not_audio"},
    )
    yield "mp3: 5,000 tags", (b"ID3\x04\0\0" + _syncsafe(0)) * 5000 + whole["mp3"], {OK, "not_audio"}
    yield "ogg: granules of 2^63", _with_granules(whole["ogg"], 0x7FFFFFFFFFFFFFFF), {OK, "too_short", "not_audio"}
    yield "ogg: granules of -2", _with_granules(whole["ogg"], 0xFFFFFFFFFFFFFFFE), {OK, "too_short", "not_audio"}
    yield "opus: granules of 2^62", _with_granules(whole["opus"], 1 << 62), {OK, "too_short", "not_audio", "too_long"}
    yield (
        "webm: sizes that lie",
        whole["webm"][:40] + b"\x08\xff\xff\xff\xff\xff\xff\xff" + whole["webm"][48:],
        {
            OK,
            "not_audio",
        },
    )
    yield (
        "webm: an element of 2^56 bytes",
        whole["webm"][:4] + b"\x01" + b"\xfe" * 7 + whole["webm"][12:],
        {
            "not_audio",
            OK,
        },
    )
    yield (
        "aiff: 65,535 channels",
        _patched(whole["aiff"], b"COMM", 8, b"\xff\xff"),
        {"not_audio", "unsupported_channels"},
    )
    yield (
        "aiff: a rate of infinity",
        _patched(whole["aiff"], b"COMM", 16, b"\x7f\xff" + b"\xff" * 8),
        {
            "not_audio",
            "unsupported_rate",
        },
    )
    yield "au: 0 channels", b".snd" + struct.pack(">5I", 24, 0xFFFFFFFF, 3, RATE_HZ, 0) + some, {"not_audio"}
    yield "au: 2^31 channels", b".snd" + struct.pack(">5I", 24, 0xFFFFFFFF, 3, RATE_HZ, 1 << 31) + some, {"not_audio"}
    yield (
        "au: samples begin at 4 GiB",
        b".snd" + struct.pack(">5I", 0xFFFFFFFF, 9, 3, RATE_HZ, 1) + some,
        {OK, "not_audio"},
    )
    yield "caf: a chunk of -1 bytes", _patched(whole["caf"], b"data", 4, b"\xff" * 8), {OK, "not_audio"}
    yield "caf: a chunk of 2^63 bytes", _patched(whole["caf"], b"desc", 4, b"\x7f" + b"\xff" * 7), {"not_audio", OK}
    yield "w64: says 2^63 bytes", whole["w64"][:16] + b"\xff" * 7 + b"\x7f" + whole["w64"][24:], {OK, "not_audio"}
    yield "tta: 2^32 samples", _patched(whole["tta"], b"TTA1", 14, b"\xff\xff\xff\xff"), {OK, "not_audio", "too_short"}


def bombs(folder: Path) -> Iterator[tuple[str, bytes, set[str]]]:
    """Little that becomes much."""
    for name, arguments, answer in (
        ("half an hour of silence, flac", ["-t", "1799", "-ar", "8000", "-c:a", "flac", "x.flac"], {OK}),
        ("an hour of silence at 8 kHz, flac", ["-ar", "8000", "-c:a", "flac", "x.flac"], {"too_long"}),
        (
            "an hour of silence at 8 kHz, opus",
            ["-c:a", "libopus", "-b:a", "500", "x.opus"],
            {"too_long"},
        ),
        ("an hour of silence at 192 kHz, flac", ["-ar", "192000", "-c:a", "flac", "x.flac"], {"too_long"}),
        ("an hour of eight channels, flac", ["-ar", "44100", "-ac", "8", "-c:a", "flac", "x.flac"], {"too_long"}),
    ):
        target = folder / arguments[-1]
        ffmpeg("-f", "lavfi", "-t", "3600", "-i", "anullsrc=r=8000:cl=mono", *arguments[:-1], str(target))
        yield name, target.read_bytes(), answer
    zeros = bytes(200_000_000)
    yield "200 MB of zeros, gzip", gzip.compress(zeros, 6), {"not_audio"}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("a.wav", zeros)
    yield "200 MB of zeros, zip", archive.getvalue(), {"not_audio"}
    moov = zlib.compress(bytes(300_000_000), 9)
    packed = _mp4_box(b"dcom", b"zlib") + _mp4_box(b"cmvd", struct.pack(">I", 300_000_000) + moov)
    bomb = _mp4_box(b"ftyp", b"qt  \0\0\0\0") + _mp4_box(b"moov", _mp4_box(b"cmov", packed))
    yield "mp4: a compressed index of 300 MB", bomb, {"not_audio", "no_audio"}


def no_audio(folder: Path, whole: dict[str, bytes]) -> Iterator[tuple[str, bytes, set[str]]]:
    """What is something else, or two things at once."""
    noise = np.random.default_rng(1)
    jpeg, video, png = folder / "a.jpg", folder / "a.mp4", folder / "a.png"
    for target in (jpeg, video, png):
        ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x64:d=0.04", "-frames:v", "1", str(target))
    no, none = {"not_audio"}, {"no_audio"}
    yield "no byte", b"", {"empty"}
    yield "one byte", b"R", no
    yield "a million zeros", bytes(1_000_000), no
    yield "a million bytes of 255", b"\xff" * 1_000_000, no
    yield "a million bytes at random", noise.bytes(1_000_000), no | {"too_short", "unsupported_rate"}
    yield "text", b"To whom it may concern. " * 4000, no
    yield "html", b"<!doctype html><html><audio src='file:///etc/passwd'></audio></html>" * 100, no
    yield "json", b'{"audio": "file:///etc/passwd"}' * 100, no
    yield "an ELF program", Path("/bin/true").read_bytes(), no
    yield "a JPEG", jpeg.read_bytes(), no | none
    yield "a PNG", png.read_bytes(), no | none
    yield "a video without sound", video.read_bytes(), none
    yield "subtitles, srt", b"1\n00:00:00,000 --> 00:00:09,000\nhello\n", no
    yield "subtitles, ass", b"[Script Info]\nScriptType: v4.00+\n[Events]\nDialogue: 0,0,0,,a\n", no
    yield "subtitles, webvtt", b"WEBVTT\n\n00:00.000 --> 00:09.000\nhello\n", no
    yield "a PDF", b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n" * 50, no
    yield "an encrypted file (PGP)", b"\x85\x01\x0c\x03" + noise.bytes(50_000), no | {"too_short"}
    yield "an encrypted mp4", _encrypted(whole["m4a"]), no | {OK, "too_short"}
    yield "a PNG that goes on as a WAV", png.read_bytes() + whole["wav"], no | none
    yield "a WAV that goes on as HTML", whole["wav"] + b"<script>alert(1)</script>", {OK}
    yield "a zip that goes on as an MP3", b"PK\x03\x04" + bytes(26) + whole["mp3"], {OK, "not_audio"}
    yield "an MP3 behind 60 kB of text", b"text " * 12_000 + whole["mp3"], {OK, "not_audio"}
    yield "a 3 Hz hum in 20 samples", wav(tone(20 / RATE_HZ)), {"too_short"}
    yield "a module (MOD)", bytes(1080) + b"M.K." + bytes(3000), no
    yield "MIDI", b"MThd\0\0\0\x06\0\x01\0\x01\x01\xe0MTrk\0\0\0\x04\0\xff/\0", no
    yield "an AVI without sound", b"RIFF\xff\xff\0\0AVI LIST" + bytes(5000), no


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
    "m3u8 with a key": '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n',
    "m3u8 with a map": '#EXTM3U\n#EXT-X-MAP:URI="{target}"\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n',
    "m3u8 that joins": "#EXTM3U\n#EXTINF:10,\nconcat:{target}|{target}\n#EXT-X-ENDLIST\n",
    "m3u8 in m3u8": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n",
    "ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "concat": "file '{target}'\n",
    "pls": "[playlist]\nFile1={target}\nNumberOfEntries=1\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
    "a=control:{target}\n",
    "dash": '<?xml version="1.0"?><MPD><Period><AdaptationSet mimeType="audio/mp4"><Representation>'
    "<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "smil": "<smil><body><audio src='{target}'/></body></smil>",
    "asx": "<asx version='3.0'><entry><ref href='{target}'/></entry></asx>",
    "wpl": "<?wpl version='1.0'?><smil><body><seq><media src='{target}'/></seq></body></smil>",
    "rtsp text": "RTSPtext\n{target}\n",
    "asf reference": "[Reference]\nRef1={target}\n",
    "IMF": '<?xml version="1.0"?><AssetMap><Path>{target}</Path></AssetMap>',
    "svg": "<svg xmlns='http://www.w3.org/2000/svg'><image href='{target}'/></svg>",
    "an XML entity": '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "{target}">]><MPD>&b;</MPD>',
}
DRESSES = {
    "plain": b"",
    "as wav": b"RIFF\0\0\0\0WAVE\n",
    "as mp3": b"ID3\x03\0\0\0\0\0\0",
    "as ogg": b"OggS\0\x02" + bytes(20) + b"\n",
}


def playlists(targets: list[str]) -> Iterator[tuple[str, bytes, set[str]]]:
    """Lists that name `targets`, plain or behind an audio file's first bytes."""
    for index, (kind, text) in enumerate(PLAYLISTS.items()):
        for dress, prefix in DRESSES.items():
            target = targets[(index + len(dress)) % len(targets)]
            yield f"{kind}, {dress}", prefix + text.format(target=target).encode(), {"not_audio", "too_short"}


def _syncsafe(size: int) -> bytes:
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def _mp4_box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def _nested_boxes(depth: int) -> bytes:
    boxes = b"".join(struct.pack(">I", (depth - level) * 8) + b"moov" for level in range(depth))
    return _mp4_box(b"ftyp", b"M4A \0\0\0\0") + boxes


def _with_chunk(data: bytes, size: int) -> bytes:
    return data[:12] + b"JUNK" + struct.pack("<I", size) + data[12:]


def _with_chunks(data: bytes, count: int) -> bytes:
    return data[:12] + b"JUNK\0\0\0\0" * count + data[12:]


def _patched(data: bytes, mark: bytes, offset: int, new: bytes) -> bytes:
    place = data.index(mark) + offset
    return data[:place] + new + data[place + len(new) :]


def _with_huge_tables(data: bytes) -> bytes:
    for table in (b"stsz", b"stco", b"stts", b"stsc"):
        data = _patched(data, table, 12 if table == b"stsz" else 8, b"\xff\xff\xff\xf0")
    return data


def mp4_that_names_a_file(data: bytes, path: str) -> bytes:
    """Its samples lie in another file: the reference to itself becomes a Macintosh alias (QuickTime's `alis`)."""
    name = path.encode()
    name += b"\0" * (len(name) % 2)
    alias = bytes(4 + 10 + 1 + 27 + 12 + 1 + 63 + 16) + struct.pack(">HH", 1, 1) + bytes(16)
    alias += struct.pack(">HH", 2, len(name)) + name + struct.pack(">HH", 0xFFFF, 0) + bytes(8)
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        place = data.index(box) - 4
        (size,) = struct.unpack_from(">I", data, place)
        data = data[:place] + struct.pack(">I", size + len(alias) - 4) + data[place + 4 :]
    place = data.index(b"url ") - 4
    return data[:place] + _mp4_box(b"alis", alias) + data[place + 12 :]


def _encrypted(data: bytes) -> bytes:
    return _patched(data, b"mp4a", 0, b"enca")


def _flac_picture(data: bytes, size: int) -> bytes:
    """A picture block that claims `size` bytes between STREAMINFO and the rest."""
    return data[:4] + bytes([data[4] & 0x7F]) + data[5:42] + b"\x06" + size.to_bytes(3, "big") + data[42:]


def _flac_head(data: bytes) -> bytes:
    return data[:8] + b"\xff\xff\xff\xff" + data[12:18] + b"\x9f\xff\x60" + data[21:]


def _with_granules(data: bytes, granule: int) -> bytes:
    """All pages but the first two bear this position; their checksums hold, as ffmpeg does not look at them."""
    pages = data.split(b"OggS")
    changed = [page[:2] + struct.pack("<Q", granule) + page[10:] if at > 3 else page for at, page in enumerate(pages)]
    return b"OggS".join(changed)
