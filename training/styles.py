"""What a style is: a table. Rhythms are strings of sixteenths: X an accent, x a soft stroke, a dot a rest.

This file says what may be played; `score.py` chooses, and the voices say how it sounds.
"""

from __future__ import annotations

from dataclasses import dataclass

MODES = {
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "major": (0, 2, 4, 5, 7, 9, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}  # semitones above the root
PROGRESSIONS = {
    "minor": ((0, 0, 0, 0), (0, 5, 2, 6), (0, 3, 5, 4), (0, 6, 5, 6), (0, 3, 0, 4)),
    "major": ((0, 0, 0, 0), (0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 1, 4), (3, 4, 0, 5)),
    "dorian": ((0, 0, 0, 0), (0, 3, 0, 3), (0, 1, 3, 0), (0, 6, 3, 0)),
    "phrygian": ((0, 0, 0, 0), (0, 1, 0, 1), (0, 1, 2, 1)),
    "mixolydian": ((0, 0, 0, 0), (0, 6, 3, 0), (0, 4, 6, 3)),
}  # degrees of the mode, a bar each


@dataclass(frozen=True)
class Beat:
    """Rhythms of the drums in a bar."""

    kick: str
    snare: str
    hat: str
    open_hat: str = "................"


@dataclass(frozen=True)
class Style:
    """Everything that a style leaves to chance.

    Attributes:
        step_frames: frames of a sixteenth, hence its tempi.
        swing_frames: by how much every second sixteenth may come late.
        chord_voices, bass_voices, lead_voices: names of `tones.py`.
        pump: how far chords and bass give way on each beat, 0 to 1.
        drumless: how often it has no drums.
        moods: words for it.
    """

    name: str
    step_frames: tuple[int, ...]
    modes: tuple[str, ...]
    beats: tuple[Beat, ...]
    bass: tuple[str, ...]
    chords: tuple[str, ...]
    lead: tuple[str, ...]
    chord_voices: tuple[str, ...]
    bass_voices: tuple[str, ...]
    lead_voices: tuple[str, ...]
    swing_frames: tuple[int, ...] = (0,)
    pump: float = 0.0
    drumless: float = 0.1
    moods: tuple[str, ...] = ()


STYLES = (
    Style(
        "drum and bass",
        (4,),
        ("minor", "dorian", "phrygian"),
        (
            Beat("X.........X.....", "....X.......X...", "X.x.X.x.X.x.X.x."),
            Beat("X.x.......X.....", "....X..x.x..X..x", "X.x.X.x.X.x.X.x."),
            Beat("X.........Xx....", "....X..x....X...", "xxxxxxxxxxxxxxxx"),
        ),
        ("X.........X.....", "X.......X.....x.", "X.....X...X....."),
        ("X...............", "X.....X.........", "..X.......X....."),
        ("X...x...X.x.....", "X.....x...X....."),
        ("pad", "stab"),
        ("reese", "sub"),
        ("pluck", "bell"),
        moods=("fast", "dark", "energetic"),
    ),
    Style(
        "house",
        (6,),
        ("minor", "dorian", "major"),
        (
            Beat("X...X...X...X...", "....X.......X...", "................", "..X...X...X...X."),
            Beat("X...X...X...X...", "....X.......X..x", "x.x.x.x.x.x.x.x.", "..X...X...X...X."),
        ),
        ("..X...X...X...X.", "X..x..X...X..x..", "..x...x...x..xx."),
        ("X..X..X...X.....", "..X...X...X...X.", "X...............", "...X..X....X..X."),
        ("X..x..x.X..x..x.", "....X...X.....x."),
        ("stab", "keys", "pad"),
        ("sub", "saw"),
        ("pluck", "square", "bell"),
        pump=0.6,
        moods=("warm", "groovy", "club"),
    ),
    Style(
        "techno",
        (5, 6),
        ("minor", "phrygian"),
        (
            Beat("X...X...X...X...", "................", "..x...x...x...x.", "..X...X...X...X."),
            Beat("X...X...X...X...", "....x.......x...", "xxXxxxXxxxXxxxXx"),
        ),
        ("..xX..xX..xX..xX", ".xxx.xxx.xxx.xxx"),
        ("...X.....X......", "X...............", "...X..X....X...."),
        ("x.x.x.x.x.x.x.x.", "X..X..X..X..X.X."),
        ("stab", "pad"),
        ("saw", "sub"),
        ("pluck", "square"),
        pump=0.5,
        moods=("hypnotic", "dark", "driving"),
    ),
    Style(
        "hip hop",
        (8, 9),
        ("minor", "dorian"),
        (
            Beat("X..x...x..X.....", "....X.......X...", "X.x.X.x.X.x.X.x."),
            Beat("X.......x.X.....", "....X.......X..x", "X.x.X.x.X.x.X.x.", "..............x."),
            Beat("X.....x...X..x..", "....X.......X...", "X.xxX.x.X.x.X.x."),
        ),
        ("X..x......X.....", "X.......X.x.....", "X.....x...X..x.."),
        ("X.......X.......", "X..X....X..X....", "X..............."),
        ("X..x..X.....x...", "X.x...X.x......."),
        ("keys", "stab"),
        ("sub", "pick"),
        ("bell", "pluck", "square"),
        swing_frames=(0, 1, 2),
        moods=("laid back", "dusty", "old school"),
    ),
    Style(
        "lofi",
        (9, 10, 11),
        ("major", "dorian", "minor"),
        (
            Beat("X.........X.....", "....X.......X...", "x.x.x.x.x.x.x.x."),
            Beat("X......x..X.....", "....X.......X...", "x...x...x...x..."),
        ),
        ("X.........X.....", "X.......X......."),
        ("X...............", "X.......x.......", "X...x...X...x..."),
        ("X...x.x.....x...", "X.....X.x......."),
        ("keys", "pad"),
        ("sub", "pick"),
        ("bell", "pluck"),
        swing_frames=(0, 2),
        drumless=0.15,
        moods=("calm", "warm", "chill"),
    ),
    Style(
        "ambient",
        (10, 11, 12),
        ("major", "dorian", "minor"),
        (
            Beat("X...............", "........x.......", "....x.......x..."),
            Beat("X.......x.......", "............x...", "x...x...x...x..."),
        ),
        ("X...............", "X.......X......."),
        ("X...............", "X.......X......."),
        ("X...x...x...x...", "X.....X.....X...", "x.x.x.x.x.x.x.x."),
        ("pad",),
        ("sub",),
        ("bell", "pluck"),
        drumless=0.6,
        moods=("slow", "dreamy", "spacious"),
    ),
    Style(
        "synthwave",
        (6, 7),
        ("minor", "major"),
        (
            Beat("X...X...X...X...", "....X.......X...", "x.x.x.x.x.x.x.x."),
            Beat("X.....X.X.......", "....X.......X...", "xxxxxxxxxxxxxxxx"),
        ),
        ("x.x.x.x.x.x.x.x.", "xxxxxxxxxxxxxxxx", "X.xxX.xxX.xxX.xx"),
        ("X...............", "X.......X......."),
        ("x.x.x.x.x.x.x.x.", "X..x..X.x..X...."),
        ("pad", "stab"),
        ("saw",),
        ("square", "pluck"),
        moods=("retro", "bright", "nostalgic"),
    ),
    Style(
        "trap",
        (5, 4),
        ("minor", "phrygian"),
        (
            Beat("X.....x.........", "........X.......", "X.x.X.x.X.x.X.x."),
            Beat("X.........x.....", "........X.....x.", "X.xxX.x.X.x.X.xx"),
        ),
        ("X.....x.........", "X.........x....."),
        ("X...............", "X.......X......."),
        ("X..x..X..x..X...", "X...x..x........"),
        ("keys", "pad", "stab"),
        ("sub",),
        ("bell", "pluck"),
        moods=("heavy", "dark", "sparse"),
    ),
    Style(
        "dub",
        (8, 10),
        ("minor", "dorian", "mixolydian"),
        (
            Beat("........X.......", "........x.......", "x.x.x.x.x.x.x.x."),
            Beat("X...X...X...X...", "........X.......", "..x...x...x...x."),
        ),
        ("X..x..X.....x...", "..X.X...X..x...."),
        ("....X.......X...", "....X.x.....X.x."),
        ("X.....x.........", "x..x..x........."),
        ("stab", "keys"),
        ("sub", "pick"),
        ("pluck", "square"),
        moods=("deep", "echoing", "relaxed"),
    ),
    Style(
        "funk",
        (7, 8),
        ("mixolydian", "dorian"),
        (
            Beat("X.x...x...x.X...", "....X..x.x..X..x", "X.x.X.x.X.x.X.x."),
            Beat("X..x..X....x....", "....X.......X..x", "xxXxxxXxxxXxxxXx"),
        ),
        ("X..x..x.X.x..x..", "X.x...xX..x.x..."),
        ("..xX....x.xX....", "X..x..X....x..x.", "....x..x....x..x"),
        ("X.x..x..X.......", "..x.X..x..x....."),
        ("stab", "keys"),
        ("pick", "saw"),
        ("square", "pluck"),
        moods=("groovy", "tight", "bright"),
    ),
)
