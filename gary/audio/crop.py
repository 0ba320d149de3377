"""Cutting, joining and matching clips: numbers in, numbers out. Where rates and channels agree, no bit changes.

Channels are counted, not named; where they must be named, the order is WAV's: FL FR FC LFE BL BR SL SR, and four
are FL FR BL BR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import soxr

from gary.audio.clip import Clip
from gary.audio.loudness import PEAK_MAX, loudness_lufs
from gary.config import MIB, Limits
from gary.errors import InvalidInput, TooLarge

JOIN_FADE_S = 0.01  # long enough to hide a click, short enough not to be heard as a fade
GAIN_MAX_DB = 24.0  # a codec is off by a few dB at most; beyond this its output is not the tail any more

_H = math.sqrt(0.5)
# Left and right weight of each channel by ITU-R BS.775; the low-frequency channel is left out.
_STEREO = {
    3: [(1, 0), (0, 1), (_H, _H)],
    4: [(1, 0), (0, 1), (_H, 0), (0, _H)],
    5: [(1, 0), (0, 1), (_H, _H), (_H, 0), (0, _H)],
    6: [(1, 0), (0, 1), (_H, _H), (0, 0), (_H, 0), (0, _H)],
    7: [(1, 0), (0, 1), (_H, _H), (0, 0), (_H / 2, _H / 2), (_H, 0), (0, _H)],
    8: [(1, 0), (0, 1), (_H, _H), (0, 0), (_H, 0), (0, _H), (_H, 0), (0, _H)],
}


def crop(clip: Clip, start_s: float, end_s: float) -> Clip:
    """The stretch from `start_s` to `end_s`, both rounded to whole samples; an end beyond the clip's is cut to it.

    Raises:
        InvalidInput: bad_range (negative, no number, the wrong way round), past_end, empty_range (below one sample).
    """
    if math.isnan(start_s) or math.isnan(end_s):
        raise InvalidInput("start and end of a crop are numbers of seconds", "bad_range")
    if start_s < 0:
        raise InvalidInput(f"a crop starts at 0 s or later, not at {start_s:g} s", "bad_range")
    if end_s <= start_s:
        raise InvalidInput(f"a crop ends after its start: {start_s:g} s to {end_s:g} s is no range", "bad_range")
    if start_s >= clip.duration_s:
        raise InvalidInput(f"the crop starts at {start_s:g} s, the audio ends at {clip.duration_s:g} s", "past_end")
    return clip.slice_s(start_s, min(end_s, clip.duration_s))


def head(clip: Clip, length_s: float) -> Clip:
    """The first `length_s`, or the whole clip where it is shorter; a view."""
    return Clip(clip.samples[:, : _whole_samples(clip, length_s)], clip.rate_hz)


def tail(clip: Clip, length_s: float) -> Clip:
    """The last `length_s`, or the whole clip where it is shorter; a view."""
    return Clip(clip.samples[:, clip.length_samples - _whole_samples(clip, length_s) :], clip.rate_hz)


def join(clips: Sequence[Clip], limit_bytes: int = Limits().decoded_bytes) -> Clip:
    """The clips one after the other, at the first one's rate and channel count.

    Raises:
        InvalidInput: no_clips.
        TooLarge: too_long, the result would be larger than `limit_bytes`; found before anything is computed.
    """
    if not clips:
        raise InvalidInput("there are no clips to join", "no_clips")
    first = clips[0]
    length_samples = sum(_resampled_length(clip, first.rate_hz) for clip in clips)
    if length_samples * first.channels * 4 > limit_bytes:
        raise TooLarge(f"the clips together are longer than {limit_bytes / MIB:g} MiB of samples", "too_long")
    parts = [fit(clip, first.rate_hz, first.channels).samples for clip in clips]
    return Clip(np.concatenate(parts, axis=1), first.rate_hz)


def with_channels(clip: Clip, channels: int) -> Clip:
    """The clip with so many channels.

    Mono is copied to every channel, anything becomes mono as the mean, and stereo by ITU-R BS.775 scaled so that it
    cannot clip. Else channels beyond those that there are stay silent, and channels beyond those wanted are
    folded: channel i is the mean of i, i + n, i + 2n and so on.
    """
    assert channels > 0, channels
    have, samples = clip.channels, clip.samples  # [C, N]
    if have == channels:
        return clip
    if channels == 1:
        return clip.mono()
    if have == 1:
        return Clip(np.repeat(samples, channels, axis=0), clip.rate_hz)
    if channels == 2 and have in _STEREO:
        weights = np.array(_STEREO[have], np.float32)  # [C, 2]
        return Clip((weights / weights.sum(axis=0)).T @ samples, clip.rate_hz)
    if have < channels:
        silence = np.zeros((channels - have, clip.length_samples), np.float32)
        return Clip(np.concatenate([samples, silence]), clip.rate_hz)
    folded = [samples[i::channels].mean(axis=0, dtype=np.float32) for i in range(channels)]
    return Clip(np.stack(folded), clip.rate_hz)


def resample(clip: Clip, rate_hz: int) -> Clip:
    """The clip at another rate, by soxr at its best quality; N samples become N * rate_hz / clip.rate_hz, rounded."""
    if rate_hz == clip.rate_hz or clip.length_samples == 0:
        return Clip(clip.samples, rate_hz)
    length_samples = _resampled_length(clip, rate_hz)
    interleaved = np.ascontiguousarray(clip.samples.T)  # [N, C], as soxr wants them
    samples = np.ascontiguousarray(soxr.resample(interleaved, clip.rate_hz, rate_hz, quality="VHQ").T)
    missing = length_samples - samples.shape[1]
    if missing > 0:
        samples = np.pad(samples, ((0, 0), (0, missing)), mode="edge")
    return Clip(samples[:, :length_samples], rate_hz)


def fit(clip: Clip, rate_hz: int, channels: int) -> Clip:
    """The clip at another rate and channel count; whichever has fewer channels is resampled."""
    if clip.channels > channels:
        return resample(with_channels(clip, channels), rate_hz)
    return with_channels(resample(clip, rate_hz), channels)


def splice(original: Clip, tail_s: float, generated: Clip) -> Clip:
    """What a continuation answers: the original without its last `tail_s`, bit for bit, then `generated`.

    `generated` begins with its own rendering of that tail (the prompt) and goes on from there. It is brought to the
    original's rate and channels, and by one gain to the tail's loudness, so that nothing jumps where they meet and a
    piece that is continued again and again does not grow louder or softer. The gain never lifts a peak over
    `PEAK_MAX` (it lowers one that is), and is otherwise 1 where either side is too quiet to measure. Over the first
    10 ms the tail fades into its rendering, so that the joint does not click.

    Args:
        tail_s: as it was given to `tail` for the prompt.

    Returns:
        the original's rate and channels; its length less the tail's, plus that of `generated`.
    """
    replaced = tail(original, tail_s)
    fitted = fit(generated, original.rate_hz, original.channels)
    samples = fitted.samples * np.float32(_matching_gain(replaced, fitted))  # [C, N]
    fade_samples = min(round(JOIN_FADE_S * original.rate_hz), replaced.length_samples, fitted.length_samples)
    rising = np.arange(fade_samples, dtype=np.float32) / np.float32(max(1, fade_samples))
    samples[:, :fade_samples] *= rising
    samples[:, :fade_samples] += replaced.samples[:, :fade_samples] * (1 - rising)
    kept = original.samples[:, : original.length_samples - replaced.length_samples]
    return Clip(np.concatenate([kept, samples], axis=1), original.rate_hz)


def _matching_gain(replaced: Clip, rendering: Clip) -> float:
    """The factor that makes the rendering's beginning as loud as what it replaces."""
    wanted_lufs = loudness_lufs(replaced)
    found_lufs = loudness_lufs(Clip(rendering.samples[:, : replaced.length_samples], rendering.rate_hz))
    gain = 1.0
    if wanted_lufs is not None and found_lufs is not None:
        gain = 10 ** (float(np.clip(wanted_lufs - found_lufs, -GAIN_MAX_DB, GAIN_MAX_DB)) / 20)
    peak = float(np.abs(rendering.samples).max(initial=0.0))
    return min(gain, PEAK_MAX / peak) if peak > 0 else gain


def _whole_samples(clip: Clip, length_s: float) -> int:
    assert length_s >= 0, length_s
    return min(clip.length_samples, round(length_s * clip.rate_hz))


def _resampled_length(clip: Clip, rate_hz: int) -> int:
    """N * rate_hz / clip.rate_hz to the nearest whole number, halves upwards, in integers."""
    return (2 * clip.length_samples * rate_hz + clip.rate_hz) // (2 * clip.rate_hz)
