"""Decoding and encoding with the real ffmpeg: what is odd is served, what is bad is refused, and jobs do not meet."""

from __future__ import annotations

import asyncio
import io
import os
import select
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gary.audio.clip import Clip
from gary.audio.crop import fit, join
from gary.audio.ffmpeg import find_ffmpeg
from gary.audio.files import Format, decode, encode, encode_mp3, encode_opus, encode_wav
from gary.config import MIB, Limits
from gary.errors import ClientError, InvalidInput, MediaError, TooLarge

LIMITS = Limits()
RATE_HZ = 44_100
SUBTYPES = {"PCM_U8": 2**-7, "PCM_16": 2**-15, "PCM_24": 2**-23, "PCM_32": 2**-23, "FLOAT": 1e-7, "DOUBLE": 1e-7}


def chord(duration_s: float = 1.0, rate_hz: int = RATE_HZ, channels: int = 2, hz: float = 331.7) -> Clip:
    """A different tone in each channel, of no period that divides a second, so that nothing can be moved unseen."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    rows = [0.5 * np.sin(2 * np.pi * hz * (1 + channel / 3) * time_s) for channel in range(channels)]
    return Clip(np.array(rows, np.float32), rate_hz)


def wav(clip: Clip, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, clip.samples.T, clip.rate_hz, format="WAV", subtype=subtype)
    return file.getvalue()


def transcoded(clip: Clip, folder: Path, *arguments: str, name: str) -> bytes:
    """The clip in any container that ffmpeg writes, which takes a file for those that seek."""
    source, target = folder / "source.wav", folder / name
    source.write_bytes(wav(clip, "FLOAT"))
    command = [str(find_ffmpeg()), "-v", "error", "-y", "-i", str(source), *arguments, "-strict", "-2", str(target)]
    subprocess.run(command, check=True)
    return target.read_bytes()


async def refusal(data: bytes, limits: Limits = LIMITS, start_s: float = 0.0) -> ClientError:
    with pytest.raises(ClientError) as caught:
        await decode(data, limits, start_s)
    return caught.value


@pytest.mark.parametrize("subtype", SUBTYPES)
async def test_wav_of_any_depth(subtype: str) -> None:
    """8 to 32 bits and float decode to the same samples, within their own step."""
    clip = chord()
    decoded = await decode(wav(clip, subtype), LIMITS)
    assert decoded.samples.dtype == np.float32
    assert np.abs(decoded.samples - clip.samples).max() <= SUBTYPES[subtype]


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 32_000, 48_000, 96_000, 192_000])
async def test_rates_are_kept(rate_hz: int) -> None:
    """8 to 192 kHz come through at their own rate and length."""
    decoded = await decode(wav(chord(0.5, rate_hz)), LIMITS)
    assert (decoded.rate_hz, decoded.length_samples) == (rate_hz, rate_hz // 2)


@pytest.mark.parametrize("channels", range(1, 9))
async def test_channels_are_kept_in_order(channels: int) -> None:
    """Mono to eight channels come through, each in its place, and back into a WAV bit for bit."""
    clip = chord(0.2, channels=channels)
    decoded = await decode(wav(clip), LIMITS)
    assert decoded.samples.shape == clip.samples.shape
    assert np.abs(decoded.samples - clip.samples).max() <= 2**-15
    assert np.array_equal((await decode(encode_wav(decoded), LIMITS)).samples, decoded.samples)


async def test_wav_round_trip_is_exact() -> None:
    """A 16-bit WAV with every integer in it, decoded and encoded again, is the same file."""
    integers = np.arange(-32768, 32768, dtype=np.int16)
    file = io.BytesIO()
    soundfile.write(file, np.stack([integers, integers[::-1]], axis=1), RATE_HZ, format="WAV", subtype="PCM_16")
    original = file.getvalue()
    assert encode_wav(await decode(original, LIMITS)) == original


def test_encoding_clips_instead_of_wrapping() -> None:
    """Samples beyond full scale become full scale of the same sign."""
    data = encode_wav(Clip(np.array([[-2.0, 2.0]], np.float32), RATE_HZ))
    assert struct.unpack("<2h", data[-4:]) == (-32768, 32767)


@pytest.mark.parametrize(
    ("name", "arguments", "tolerance"),
    [
        ("a.flac", ["-c:a", "flac", "-sample_fmt", "s32"], 1e-6),
        ("a.aiff", ["-c:a", "pcm_s24be"], 1e-6),
        ("a.au", ["-c:a", "pcm_f32be"], 0),
        ("a.caf", ["-c:a", "pcm_s16le"], 1e-4),
        ("a.w64", ["-c:a", "pcm_f32le"], 0),
        ("alac.m4a", ["-c:a", "alac"], 1e-4),
        ("a.wv", ["-c:a", "wavpack"], 1e-6),
        ("a.ogg", ["-c:a", "libvorbis"], 0.05),
        ("a.opus", ["-c:a", "libopus", "-b:a", "192k"], 0.05),
        ("a.webm", ["-c:a", "libopus", "-b:a", "192k"], 0.05),
        ("a.mp3", ["-c:a", "libmp3lame", "-b:a", "192k"], 0.05),
        ("a.m4a", ["-c:a", "aac", "-b:a", "192k"], 0.05),
        ("a.mka", ["-c:a", "pcm_s16le"], 1e-4),
        ("a.aac", ["-c:a", "aac", "-b:a", "192k"], None),  # no header says where its audio begins
        ("a.ac3", ["-c:a", "ac3"], None),
        ("a.ts", ["-c:a", "aac"], None),
        ("a.wma", ["-c:a", "wmav2"], None),
    ],
)
async def test_containers(name: str, arguments: list[str], tolerance: float | None, tmp_path: Path) -> None:
    """Every container decodes; those that say where their audio begins, to the very samples that went in."""
    clip = chord(1.0, rate_hz=48_000)
    decoded = await decode(transcoded(clip, tmp_path, *arguments, name=name), LIMITS)
    assert (decoded.rate_hz, decoded.channels) == (48_000, 2)
    assert decoded.duration_s == pytest.approx(1.0, abs=0.15)
    if tolerance is not None:
        inner = slice(4_800, 40_000)
        assert np.abs(decoded.samples[:, inner] - clip.samples[:, inner]).max() <= tolerance


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.webm", "a.mka", "a.ogg", "a.flac", "a.wav"])
async def test_a_stretch_is_the_slice_of_the_whole(name: str, tmp_path: Path) -> None:
    """In every container, decoding from a place on gives what the whole, decoded, has there: to the sample."""
    data = transcoded(chord(5.0), tmp_path, name=name)
    whole = await decode(data, LIMITS)
    for start_s, length_s in [(0.0, 1.1), (1.0 / 3, 0.7), (2.0, 1.0), (3.99999, 0.5), (4.5, 60.0)]:
        stretch = await decode(data, LIMITS, start_s, length_s)
        start = round(start_s * whole.rate_hz)
        expected = whole.samples[:, start : start + round(length_s * whole.rate_hz)]
        assert np.array_equal(stretch.samples, expected), (start_s, length_s)


async def test_samples_are_counted_not_dated(tmp_path: Path) -> None:
    """Where the sound of a video sets in late, a stretch is still the slice of the whole."""
    late = ["-f", "lavfi", "-i", "color=s=32x32:d=5", "-c:v", "mpeg4", "-c:a", "pcm_s16le", "-af", "asetpts=PTS+0.5/TB"]
    data = transcoded(chord(4.0), tmp_path, *late, name="a.mkv")
    whole, stretch = await decode(data, LIMITS), await decode(data, LIMITS, 2.0, 1.0)
    assert np.array_equal(stretch.samples, whole.samples[:, 2 * RATE_HZ : 3 * RATE_HZ])


async def test_the_audio_of_a_video_is_taken(tmp_path: Path) -> None:
    """A picture beside the sound is ignored."""
    data = transcoded(chord(), tmp_path, "-f", "lavfi", "-i", "color=s=32x32:d=1", "-c:a", "aac", name="a.mp4")
    assert (await decode(data, LIMITS)).channels == 2


async def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    """A container that holds no audio stream says so."""
    data = transcoded(
        chord(), tmp_path, "-f", "lavfi", "-i", "color=s=32x32:d=1", "-map", "1", "-c:v", "mpeg4", name="a.mp4"
    )
    assert (await refusal(data)).code == "no_audio"


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.ogg"])
async def test_a_file_that_breaks_off_is_served(name: str, tmp_path: Path) -> None:
    """Half a file gives about half the audio, equal to the whole one's beginning."""
    data = transcoded(chord(4.0), tmp_path, name=name)
    whole, half = await decode(data, LIMITS), await decode(data[: len(data) // 2], LIMITS)
    assert 1.0 < half.duration_s < 3.0
    inner = half.length_samples - 4096
    assert np.array_equal(half.samples[:, :inner], whole.samples[:, :inner])


async def test_a_wav_of_unknown_length_is_served() -> None:
    """Encoders that write to a pipe leave the sizes at their largest; the samples count."""
    data = bytearray(wav(chord()))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert (await decode(bytes(data), LIMITS)).duration_s == 1.0


JUNK = {
    "nothing": (b"", "empty"),
    "a byte": (b"x", "not_audio"),
    "text": (b"hello, world. " * 1000, "not_audio"),
    "html": (b"<!doctype html><html><body>" + b"<p>no</p>" * 5000, "not_audio"),
    "zeros": (bytes(100_000), "not_audio"),
    "random": (np.random.default_rng(0).bytes(200_000), "not_audio"),
    "png": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(1000), "not_audio"),
    "a WAV's first bytes": (wav(chord())[:30], "not_audio"),
    "a header alone": (wav(chord())[:44], "not_audio"),
    "50 ms": (wav(chord(0.05)), "too_short"),
    "4 kHz": (wav(chord(1.0, 4_000)), "unsupported_rate"),
    "9 channels": (wav(chord(1.0, channels=9)), "unsupported_channels"),
}


@pytest.mark.parametrize("kind", JUNK)
async def test_what_is_no_audio_is_refused(kind: str) -> None:
    """Each kind of bad bytes is the client's fault, with its code and a sentence that names nothing of ours."""
    data, code = JUNK[kind]
    error = await refusal(data)
    assert isinstance(error, MediaError)
    assert error.code == code
    assert "ffmpeg" not in error.message
    assert "/" not in error.message


async def test_exactly_the_shortest_length_is_served() -> None:
    """The limit itself is allowed."""
    assert (await decode(wav(chord(0.1)), LIMITS)).length_samples == 4410


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nconcat:{target}|{target}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{target}'\n",
        "file '{target}'\n",
        "[playlist]\nFile1={target}\nNumberOfEntries=1\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\na=control:{target}\n",
        '<?xml version="1.0"?><MPD><Period><AdaptationSet mimeType="audio/mp4"><Representation>'
        "<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    ],
)
@pytest.mark.parametrize("prefix", [b"", b"RIFF\x00\x00\x00\x00WAVE\n", b"ID3\x03\x00\x00\x00\x00\x00\x00"])
async def test_playlists_read_no_file_and_reach_no_host(playlist: str, prefix: bytes, tmp_path: Path) -> None:
    """A playlist, plain or behind an audio file's first bytes, is refused; nobody connects to what it names."""
    secret = tmp_path / "secret.wav"
    secret.write_bytes(wav(chord()))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        for target in (f"file://{secret}", str(secret), f"http://127.0.0.1:{server.getsockname()[1]}/a.wav"):
            error = await refusal(prefix + playlist.format(target=target).encode())
            assert error.code in {"not_audio", "too_short"}
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("start_s", [1.0, 1.5, 3600.0, 1e9])
async def test_a_start_past_the_end(start_s: float) -> None:
    """Nothing is left there: the start is wrong, not the file."""
    error = await refusal(wav(chord()), start_s=start_s)
    assert isinstance(error, InvalidInput)
    assert error.code == "past_end"


async def test_a_start_past_the_end_of_no_audio() -> None:
    """A file that is no audio is the fault, wherever one wanted to start."""
    assert (await refusal(b"text " * 100, start_s=5.0)).code == "not_audio"


@pytest.mark.parametrize(("start_s", "length_s"), [(-1.0, None), (float("nan"), None), (0.0, 0.0), (0.0, float("inf"))])
async def test_impossible_stretches_are_refused(start_s: float, length_s: float | None) -> None:
    """Starts and lengths are finite numbers, in range."""
    with pytest.raises(InvalidInput):
        await decode(wav(chord()), LIMITS, start_s, length_s)


async def test_damaged_float_samples_become_silence() -> None:
    """NaN, infinity and absurd values are 0; a float file's samples beyond 1 are kept."""
    samples = chord(1.0, channels=1).samples.copy()
    samples[0, 10:14] = [np.nan, np.inf, -1e30, 3.0]
    decoded = await decode(wav(Clip(samples, RATE_HZ), "FLOAT"), LIMITS)
    assert decoded.samples[0, 10:14].tolist() == [0.0, 0.0, 0.0, 3.0]
    assert np.array_equal(decoded.samples[0, 14:], samples[0, 14:])


async def test_audio_that_decodes_to_too_much_is_stopped(tmp_path: Path) -> None:
    """A small file of long silence is refused at the limit, a stretch of it within the limit is served."""
    silence = Clip(np.zeros((1, 1200 * 8000), np.float32), 8000)
    bomb = transcoded(silence, tmp_path, "-c:a", "flac", name="a.flac")
    limits = Limits(decoded_bytes=MIB)
    assert len(bomb) < MIB
    error = await refusal(bomb, limits)
    assert isinstance(error, TooLarge)
    assert error.code == "too_long"
    assert (await decode(bomb, limits, 1000.5, 2.0)).length_samples == 16_000


async def test_a_tiny_time_limit_ends_decoding() -> None:
    """When the wall clock runs out the caller hears of it, and no child is left."""
    error = await refusal(wav(chord(60.0)), Limits(ffmpeg_timeout_s=0.001))
    assert error.code == "timeout"
    assert children() == []


async def test_cancelling_ends_the_child() -> None:
    """A caller that gives up leaves no ffmpeg behind, and the next job works."""
    task = asyncio.create_task(decode(wav(chord(300.0)), LIMITS))
    while not children():  # noqa: ASYNC110  the kernel has no event for a first child
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children() == []
    assert (await decode(wav(chord()), LIMITS)).duration_s == 1.0


async def test_many_at_once_do_not_mix() -> None:
    """Sixteen jobs at once each get their own audio back, exactly."""
    clips = [chord(0.3 + 0.05 * index, channels=1, hz=200.0 + 37 * index) for index in range(16)]
    files = [wav(clip, "FLOAT") for clip in clips]
    decoded = await asyncio.gather(*(decode(data, LIMITS) for data in files))
    for clip, got in zip(clips, decoded, strict=True):
        assert np.array_equal(got.samples, clip.samples)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 32_000, 44_100, 48_000])
async def test_mp3_keeps_length_and_place(rate_hz: int) -> None:
    """An MP3 of ours decodes to as many samples, not shifted: the encoder's delay is written down and undone."""
    clip = chord(2.0, rate_hz)
    decoded = await decode(await encode_mp3(clip), LIMITS)
    assert decoded.samples.shape == clip.samples.shape
    inner = slice(2000, -2000)
    assert np.abs(decoded.samples[:, inner] - clip.samples[:, inner]).max() < 0.05


@pytest.mark.parametrize(("rate_hz", "mp3_rate_hz"), [(8_001, 11_025), (37_800, 44_100), (96_000, 48_000)])
async def test_rates_that_mp3_lacks(rate_hz: int, mp3_rate_hz: int) -> None:
    """They go to the next higher rate, or to 48 kHz; the duration stays."""
    decoded = await decode(await encode_mp3(chord(1.0, rate_hz, channels=1)), LIMITS)
    assert (decoded.rate_hz, decoded.channels) == (mp3_rate_hz, 1)
    assert decoded.duration_s == pytest.approx(1.0, abs=1e-3)


async def test_six_channels_become_a_stereo_mp3() -> None:
    """MP3 has two channels at most."""
    assert (await decode(await encode_mp3(chord(1.0, channels=6)), LIMITS)).channels == 2


@pytest.mark.parametrize(("rate_hz", "channels"), [(8_000, 1), (32_000, 1), (44_100, 2), (48_000, 6)])
async def test_opus_keeps_length_and_place(rate_hz: int, channels: int) -> None:
    """An Opus file of ours decodes, at 48 kHz, to the clip's duration and not shifted, in one or two channels."""
    clip = chord(2.0, rate_hz, channels)
    expected = fit(clip, 48_000, min(channels, 2))
    decoded = await decode(await encode_opus(clip), LIMITS)
    assert decoded.samples.shape == expected.samples.shape
    inner = slice(2000, -2000)
    assert np.abs(decoded.samples[:, inner] - expected.samples[:, inner]).max() < 0.05


@pytest.mark.parametrize(("form", "magic"), [("wav", b"RIFF"), ("flac", b"fLaC"), ("mp3", b"\xff"), ("opus", b"OggS")])
async def test_each_format_and_the_same_bytes_each_time(form: Format, magic: bytes) -> None:
    """No date, no version and no random number is in a file: what is cached anywhere is what would be made again."""
    clip = chord(0.5)
    data = await encode(clip, form, LIMITS)
    assert data[: len(magic)] == magic or data[:3] == b"ID3"
    assert await encode(clip, form, LIMITS) == data
    assert (await decode(data, LIMITS)).duration_s == 0.5


async def test_mp3s_are_joined_in_samples() -> None:
    """Three joined MP3s last as long as their clips together, with no gap at the seams."""
    parts = [chord(1.0, channels=1, hz=441.0) for _ in range(3)]
    decoded = [await decode(await encode_mp3(part), LIMITS) for part in parts]
    whole = await decode(await encode_mp3(join(decoded)), LIMITS)
    assert whole.length_samples == 3 * RATE_HZ
    frames = whole.samples[0, 2205:-2205].reshape(-1, 441)  # 10 ms each
    assert np.sqrt((frames**2).mean(axis=1)).min() > 0.25  # of 0.354


async def test_slow_encoding_is_our_fault() -> None:
    """A clip was fine; that the machine was too slow is no client error."""
    with pytest.raises(Exception, match="took over") as caught:
        await encode_mp3(chord(30.0), Limits(ffmpeg_timeout_s=0.001))
    assert not isinstance(caught.value, ClientError)


ORPHAN = """
import asyncio, tempfile
from pathlib import Path
from gary.audio.ffmpeg import run_ffmpeg
from tests.unit.test_files import children

async def main():
    endless = ["-re", "-f", "lavfi", "-i", "anullsrc", "-f", "null", "-"]
    task = asyncio.create_task(run_ffmpeg(endless, tempfile.TemporaryFile(), None, 60.0, 2**20))
    while not any(Path(f"/proc/{pid}/comm").read_text().startswith("ffmpeg") for pid in children()):
        await asyncio.sleep(0)
    print(children()[0], flush=True)
    await task

asyncio.run(main())
"""


def test_ffmpeg_dies_with_its_parent() -> None:
    """A worker that is killed outright takes its ffmpeg along."""
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        descriptor = os.pidfd_open(int(worker.stdout.readline()))
        worker.kill()
    ended, _, _ = select.select([descriptor], [], [], 10.0)  # a pidfd is readable once its process has ended
    os.close(descriptor)
    assert ended


def children() -> list[int]:
    """The processes of ours that are ffmpeg, or on the way to become it; zombies aside."""
    found = []
    for listing in Path("/proc/self/task").glob("*/children"):
        for pid in listing.read_text().split():
            stat = Path(f"/proc/{pid}/stat")
            if stat.exists():
                _, _, rest = stat.read_text().partition("(")
                name, _, state = rest.rpartition(") ")
                if name.startswith(("python", "ffmpeg")) and state[0] != "Z":
                    found.append(int(pid))
    return found
