"""What the command line reads and draws: times, waveforms, the memory of tasks."""

from __future__ import annotations

import io
import threading
from array import array
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from hypothesis import given
from hypothesis import strategies as st

from gary.cli.remembered import Memory
from gary.cli.times import SecondRange, about, clock, second_range, seconds
from gary.cli.wav import Sound, read_wav, wav_duration_s
from gary.cli.waveform import BLOCKS, peaks, waveform
from gary.client import ServiceFailed
from tests.fake_v1 import RATE_HZ, ramp, wav


@pytest.mark.parametrize(
    ("text", "expected_s"), [("1:23", 83.0), ("0:05.5", 5.5), ("1:02:03", 3723.0), ("83.5", 83.5), ("90:00", 5400.0)]
)
def test_times_as_people_write_them(text: str, expected_s: float) -> None:
    assert seconds(text) == expected_s


@pytest.mark.parametrize("text", ["", "-1", "1:60", "1:60:00", "nan", "inf", "1:2:3:4", "a"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        seconds(text)


@given(st.integers(min_value=0, max_value=10**6))
def test_a_clock_is_read_back(whole_s: int) -> None:
    """What is shown can be typed."""
    assert seconds(clock(whole_s)) == whole_s


def test_ranges_and_rough_times() -> None:
    assert second_range("16-18") == SecondRange(16.0, 18.0)
    with pytest.raises(typer.BadParameter):
        second_range("16")
    assert [about(wait_s) for wait_s in (0.2, 12.1, 100.0)] == ["a second", "13 s", "2 min"]


def test_peaks_are_the_loudest_of_their_part() -> None:
    """Of either sign, of any channel, in parts that cover all samples; an empty sound is silent."""
    samples = array("h", [0, 100, -32768, 0, 0, 0, 16384, 0])
    assert peaks(Sound(samples, 1, RATE_HZ), 4) == [100 / 32768, 1.0, 0.0, 0.5]
    assert peaks(Sound(samples, 2, RATE_HZ), 2) == [1.0, 0.5]
    assert peaks(Sound(array("h"), 1, RATE_HZ), 3) == [0.0, 0.0, 0.0]


@given(st.integers(min_value=1, max_value=50), st.integers(min_value=0, max_value=200))
def test_every_sample_is_seen(columns: int, length_samples: int) -> None:
    """The loudest sample shows, wherever it lies and however wide the picture is."""
    for place in range(length_samples):
        samples = array("h", bytes(2 * length_samples))
        samples[place] = -32768
        assert max(peaks(Sound(samples, 1, RATE_HZ), columns)) == 1.0


def test_a_waveform_shows_what_was_there_before() -> None:
    """Full scale fills both rows, silence neither; the first third is dim, and its end stands on the ruler."""
    sound = read_wav(wav(array("h", [32767] * RATE_HZ * 2 + [0] * RATE_HZ)))
    picture = waveform(sound, before_s=1.0, columns=30)
    upper, lower, ruler = picture.plain.split("\n")
    assert upper == lower == "█" * 20 + " " * 10
    assert ruler == "0:00      ╵0:01           0:03"
    dim = [span for span in picture.spans if span.style == "dim"]
    assert [picture.plain[span.start : span.end] for span in dim] == ["█" * 10, "█" * 10, ruler]


def test_quiet_music_is_seen_in_the_lower_row() -> None:
    """A quarter of full scale is half of the lower one."""
    sound = Sound(array("h", [8192] * 100), 1, RATE_HZ)
    upper, lower, _ = waveform(sound, 0.0, columns=12).plain.split("\n")
    assert (upper, lower) == (" " * 12, BLOCKS[4] * 12)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_the_length_of_any_wav(subtype: str) -> None:
    """Whatever its samples are, exact in samples."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros((12_345, 2)), 44_100, format="WAV", subtype=subtype)
    assert wav_duration_s(file.getvalue()) * 44_100 == pytest.approx(12_345, abs=1e-6)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"RIFF\0\0\0\0WAVE", wav(ramp(0.1))[:30], b"<html>" * 20])
def test_what_is_no_wav(data: bytes) -> None:
    """An error that the commands tell, in both readers."""
    for reader in (read_wav, wav_duration_s):
        with pytest.raises(ServiceFailed):
            reader(data)


def test_the_memory_keeps_the_newest(tmp_path: Path) -> None:
    """In a file that grows no further; half a line of a program that was killed is left out."""
    path = tmp_path / "deep" / "tasks.jsonl"
    memory = Memory(path, kept=10)
    assert memory.of("here") == []
    memory.add("first", "here", "a song")
    with path.open("a") as file:
        file.write('{"id": "hal')
    for number in range(12):
        memory.add(str(number), "here" if number % 2 else "there", "a song")
    assert len(path.read_text().splitlines()) == 10
    assert [begun.id for begun in memory.of("here")][:2] == ["11", "9"]
    memory.drop(["11"])
    assert memory.of("here")[0].id == "9"


def test_programs_take_turns_at_the_memory(tmp_path: Path) -> None:
    """Nothing is lost when several write at once."""
    path = tmp_path / "tasks.jsonl"

    def write(writer: int) -> None:
        for number in range(20):
            Memory(path).add(f"{writer}-{number}", "here", "a song")

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({begun.id for begun in Memory(path).of("here")}) == 80
