"""A small picture of a WAV for the terminal: block characters, the part that was there before in a fainter shade."""

from __future__ import annotations

from itertools import pairwise

from rich.text import Text

from gary.cli.times import clock
from gary.cli.wav import Sound

BLOCKS = " ▁▂▃▄▅▆▇█"
_LEVELS = len(BLOCKS) - 1
_FULL = 32768


def peaks(sound: Sound, columns: int) -> list[float]:
    """The largest amplitude in each of `columns` equal parts, 0 to 1."""
    moments = len(sound.samples) // sound.channels
    edges = [column * moments // columns * sound.channels for column in range(columns + 1)]
    parts = (sound.samples[start:end] for start, end in pairwise(edges))
    return [(max(map(abs, part)) if part else 0) / _FULL for part in parts]


def waveform(sound: Sound, before_s: float, columns: int, rows: int = 2) -> Text:
    """`rows` lines of peaks and one of times; what lies before `before_s` is dimmed."""
    heights = [round(peak * rows * _LEVELS) for peak in peaks(sound, columns)]
    before = round(columns * min(1.0, before_s / sound.duration_s)) if sound.duration_s else 0
    picture = Text()
    for row in reversed(range(rows)):
        line = "".join(BLOCKS[min(_LEVELS, max(0, height - row * _LEVELS))] for height in heights)
        picture.append(line[:before], "dim")
        picture.append(line[before:] + "\n", "bold cyan")
    picture.append(_ruler(before_s, sound.duration_s, before, columns), "dim")
    return picture


def _ruler(before_s: float, duration_s: float, before: int, columns: int) -> str:
    """`0:00` on the left, the length on the right, and where the new music begins between them, if there is room."""
    end = clock(duration_s)
    line = "0:00".ljust(columns - len(end)) + end
    mark = f"╵{clock(before_s)}"
    fits = len("0:00 ") <= before <= columns - len(end) - len(mark) - 1
    return line[:before] + mark + line[before + len(mark) :] if fits else line
