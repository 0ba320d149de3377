"""What of a source becomes the prompt, and how long the answer is: tempo first, then whole bars.

The source is decoded once, as a window around the prompt: the prompt is cut from it to the sample, and the tempo is
heard from more than the prompt. `make_plan` speaks of the answer's length, prompt included, as the old routes do;
`make_music_plan` of the new music alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gary.audio.clip import Clip
from gary.audio.crop import tail
from gary.audio.files import decode
from gary.audio.tempo import Tempo, choose_bars, estimate_tempo
from gary.config import Limits
from gary.errors import InvalidInput, SourceError, TooLarge

TEMPO_WINDOW_S = 30.0
TEMPO_LEAD_S = 12.0  # heard before the prompt, for where the source ends soon after it
ASSUMED_BPM = 120.0  # where bars are wanted and no beat is heard
# Of MusicGen's codecs. A frame that is not full of prompt would be filled up with silence, heard as a gap of up to
# 20 ms where the new music begins.
FRAMES_PER_S = 50

Side = Literal["cursor", "head", "tail"]


@dataclass(frozen=True, eq=False)
class Source:
    """A decoded window of a source; the prompt begins `prompt_at_s` after the window does."""

    clip: Clip
    prompt_at_s: float


@dataclass(frozen=True)
class Plan:
    """What is to be made.

    Attributes:
        prompt_s: less than asked where the source ends first.
        length_s: of the answer, prompt included.
        tempo_bpm: None where no beat was heard; then there are no bars either.
        tempo_confidence: 0 to 1.
    """

    prompt_s: float
    length_s: float
    tempo_bpm: float | None
    tempo_confidence: float
    bars: int | None


@dataclass(frozen=True)
class LengthWish:
    """How much new music is wanted: one of `seconds`, `bars`, or a range from `min_s` to `max_s`.

    Attributes:
        tempo_bpm: of the bars; None has it heard in the source.
    """

    seconds: float | None = None
    min_s: float | None = None
    max_s: float | None = None
    bars: int | None = None
    tempo_bpm: float | None = None


@dataclass(frozen=True)
class MusicPlan:
    """What is to be made.

    Attributes:
        prompt_s: less than asked where the source has less; whole frames of codes.
        new_s: of new music, after the prompt.
        tempo_bpm: as heard, or as wished; None where no beat was heard.
        tempo_confidence: 0 to 1; of a tempo that was wished for, 1.
        bars: of new music, where its length was chosen in bars.
        tempo_assumed: no beat was heard, and the bars are as long as at `ASSUMED_BPM`.
    """

    prompt_s: float
    new_s: float
    tempo_bpm: float | None
    tempo_confidence: float
    bars: int | None
    tempo_assumed: bool


async def decode_side(data: bytes, side: Side, start_s: float, prompt_s: float, limits: Limits) -> Source:
    """Decodes the window of a prompt of at most `prompt_s` seconds: from `start_s` on, the first, or the last.

    Raises:
        SourceError: past_end, as of `decode_source`.
        MediaError: not audio.
        TooLarge: too_long: of the end of a file, all before it is decoded too.
    """
    if side != "tail":
        return await decode_source(data, start_s if side == "cursor" else 0.0, prompt_s, limits)
    clip = tail(await decode(data, limits), max(prompt_s, TEMPO_WINDOW_S))
    kept = Clip(clip.samples.copy(), clip.rate_hz)  # or the whole file would travel along
    return Source(kept, kept.duration_s - whole_frames_s(min(prompt_s, kept.duration_s)))


async def decode_source(data: bytes, start_s: float, prompt_s: float, limits: Limits) -> Source:
    """Decodes the window that a prompt of `prompt_s` seconds from `start_s` on needs.

    Raises:
        SourceError: past_end: nothing, or too little to go on from, is left at `start_s`.
        MediaError: not audio.
    """
    lead_s = min(start_s, TEMPO_LEAD_S)
    past_end = SourceError(f"the audio ends before {start_s:g} s; choose an earlier place", "past_end")
    try:
        clip = await decode(data, limits, start_s - lead_s, lead_s + max(prompt_s, TEMPO_WINDOW_S))
    except InvalidInput as error:
        if error.code != "past_end":
            raise
        raise past_end from error
    if clip.duration_s - lead_s < limits.clip_min_s:
        raise past_end
    return Source(clip, lead_s)


def make_plan(source: Source, prompt_s: float, min_s: float, max_s: float) -> Plan:
    """Chooses the answer's length: whole 4/4 bars of the source's tempo between `min_s` and `max_s`.

    Without a beat the answer is `max_s` long. A prompt that would fill the chosen bars is shortened, so that at
    least a bar of music is new.
    """
    prompt_s = min(prompt_s, source.clip.duration_s - source.prompt_at_s)
    tempo = _hear_tempo(source)
    if tempo is None:
        return Plan(prompt_s, max_s, None, 0.0, None)
    bars = choose_bars(tempo.bpm, min_s, max_s)
    bar_s = bars.length_s / bars.count
    if prompt_s >= bars.length_s:
        prompt_s = bars.length_s - (bar_s if bars.count > 1 else bar_s / 2)
    return Plan(prompt_s, bars.length_s, tempo.bpm, tempo.confidence, bars.count)


def make_music_plan(source: Source, prompt_s: float, wish: LengthWish, most_s: float) -> MusicPlan:
    """Chooses the lengths of prompt and new music.

    Args:
        most_s: of new music.

    Raises:
        TooLarge: too_long: bars of this tempo are longer than `most_s`.
    """
    prompt_s = whole_frames_s(min(prompt_s, source.clip.duration_s - source.prompt_at_s))
    return plan_length(prompt_s, wish, None if wish.tempo_bpm else _hear_tempo(source), most_s)


def plan_length(prompt_s: float, wish: LengthWish, heard: Tempo | None, most_s: float) -> MusicPlan:
    """How much new music, for a tempo that has been heard, or has not. Arguments and errors as of `make_music_plan`."""
    tempo = Tempo(wish.tempo_bpm, 1.0) if wish.tempo_bpm else heard
    assumed = tempo is None and wish.bars is not None
    bars_bpm = tempo.bpm if tempo else ASSUMED_BPM
    bars = wish.bars
    if wish.min_s is not None and wish.max_s is not None and tempo is not None:
        bars = choose_bars(tempo.bpm, wish.min_s, wish.max_s, most_s).count
    new_s = bars * 240 / bars_bpm if bars is not None else wish.seconds or wish.max_s
    assert new_s is not None, wish
    if new_s > most_s:
        what = f"{bars} bars at {bars_bpm:g} bpm, {new_s:.4g} s," if bars is not None else f"{new_s:g} s"
        raise TooLarge(f"{what} are too much new music; at most {most_s:g} s are made", "too_long")
    bpm, confidence = (tempo.bpm, tempo.confidence) if tempo else (None, 0.0)
    return MusicPlan(prompt_s, new_s, bpm, confidence, bars, assumed)


def whole_frames_s(length_s: float) -> float:
    """The length cut to whole frames of codes; below one frame, as it is."""
    frames = math.floor(length_s * FRAMES_PER_S + 1e-6)  # whatever the product is in binary
    return frames / FRAMES_PER_S if frames > 0 else length_s


def take_prompt(source: Source, plan: Plan | MusicPlan) -> Clip:
    """The prompt, cut to the sample: [C, N] at the source's rate."""
    return source.clip.slice_s(source.prompt_at_s, source.prompt_at_s + plan.prompt_s)


def _hear_tempo(source: Source) -> Tempo | None:
    """From the prompt on where enough follows, else from the whole window."""
    after = source.clip.slice_s(source.prompt_at_s, source.clip.duration_s)
    return estimate_tempo(after if after.duration_s >= TEMPO_LEAD_S else source.clip)
