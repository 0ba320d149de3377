"""What of a source becomes the prompt, and how long the answer is: tempo first, then whole bars.

The source is decoded once, as a window around the place where the musician pressed the button: the prompt is cut
from it to the sample, and the tempo is heard from more than the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

from gary.audio.clip import Clip
from gary.audio.files import decode
from gary.audio.tempo import Tempo, choose_bars, estimate_tempo
from gary.config import Limits
from gary.errors import InvalidInput, SourceError

TEMPO_WINDOW_S = 30.0
TEMPO_LEAD_S = 12.0  # heard before the prompt, for where the source ends soon after it


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


def take_prompt(source: Source, plan: Plan) -> Clip:
    """The prompt, cut to the sample: [C, N] at the source's rate."""
    return source.clip.slice_s(source.prompt_at_s, source.prompt_at_s + plan.prompt_s)


def _hear_tempo(source: Source) -> Tempo | None:
    """From the prompt on where enough follows, else from the whole window."""
    after = source.clip.slice_s(source.prompt_at_s, source.clip.duration_s)
    return estimate_tempo(after if after.duration_s >= TEMPO_LEAD_S else source.clip)
