"""Cutting and joining are exact in samples; splicing keeps the original bit for bit and its loudness steady."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.crop import JOIN_FADE_S, crop, head, join, resample, splice, tail, with_channels
from gary.audio.loudness import PEAK_MAX, loudness_lufs
from gary.errors import InvalidInput, TooLarge

lengths_s = st.floats(0, 20, allow_nan=False)


def noise(channels: int = 1, length_samples: int = 1000, rate_hz: int = 1000) -> Clip:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (channels, length_samples)).astype(np.float32)
    samples.flags.writeable = False  # as the object store hands them out
    return Clip(samples, rate_hz)


def tone(rate_hz: int, hz: float = 440.0, duration_s: float = 1.0, level: float = 0.5) -> Clip:
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return Clip((level * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)[None], rate_hz)


@given(cut_s=st.floats(0.001, 0.998), end_s=st.floats(0.999, 1e9))
def test_a_crop_and_its_rest_make_the_whole(cut_s: float, end_s: float) -> None:
    """Cut anywhere, both parts joined are the clip, bit for bit; an end past the clip's end is the clip's end."""
    clip = noise(2)
    parts = [crop(clip, 0.0, cut_s), crop(clip, cut_s, max(end_s, 1.0))]
    assert np.array_equal(join(parts).samples, clip.samples)


def test_crop_rounds_to_the_nearest_sample() -> None:
    """0.1006 s to 0.2004 s at 1 kHz is samples 101 to 200."""
    clip = noise()
    assert np.array_equal(crop(clip, 0.1006, 0.2004).samples, clip.samples[:, 101:200])


@pytest.mark.parametrize(
    ("start_s", "end_s", "code"),
    [
        (0.5, 0.5, "bad_range"),
        (0.6, 0.5, "bad_range"),
        (-0.1, 0.5, "bad_range"),
        (math.nan, 0.5, "bad_range"),
        (0.1, math.nan, "bad_range"),
        (1.0, 2.0, "past_end"),
        (math.inf, math.inf, "bad_range"),
        (0.1, 0.1 + 1e-9, "empty_range"),
    ],
)
def test_a_crop_that_is_no_range_is_refused(start_s: float, end_s: float, code: str) -> None:
    """Each kind of wrong range has its code."""
    with pytest.raises(InvalidInput) as caught:
        crop(noise(), start_s, end_s)
    assert caught.value.code == code


@given(length_s=lengths_s)
def test_head_and_tail_give_what_there_is(length_s: float) -> None:
    """Both are as long as asked, to the sample, or the whole clip."""
    clip = noise(2)
    wanted = min(1000, round(length_s * 1000))
    assert np.array_equal(head(clip, length_s).samples, clip.samples[:, :wanted])
    assert np.array_equal(tail(clip, length_s).samples, clip.samples[:, 1000 - wanted :])


def test_joining_nothing_is_refused() -> None:
    """An empty list is the client's fault."""
    with pytest.raises(InvalidInput):
        join([])


def test_join_follows_the_first_clip() -> None:
    """Clips of another rate or channel count become like the first; those alike are untouched."""
    first, second, third = noise(2, 4410, 44_100), tone(32_000), noise(6, 480, 48_000)
    joined = join([first, second, third])
    assert (joined.channels, joined.rate_hz) == (2, 44_100)
    assert joined.length_samples == 4410 + 44_100 + 441
    assert np.array_equal(joined.samples[:, :4410], first.samples)


def test_join_is_bounded_before_it_computes() -> None:
    """Small clips that would swell at the first one's rate are refused, not computed."""
    with pytest.raises(TooLarge) as caught:
        join([noise(8, 10, 192_000), noise(1, 8000, 8_000)], limit_bytes=1_000_000)
    assert caught.value.code == "too_long"


@given(
    length_samples=st.integers(1, 5000),
    rates_hz=st.lists(st.sampled_from([8000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000]), min_size=2, max_size=2),
)
def test_resampled_length_is_exact(length_samples: int, rates_hz: list[int]) -> None:
    """N samples become N * out / in, rounded, whatever the filter's length."""
    rate_in_hz, rate_out_hz = rates_hz
    resampled = resample(noise(2, length_samples, rate_in_hz), rate_out_hz)
    assert resampled.samples.shape == (2, math.floor(length_samples * rate_out_hz / rate_in_hz + 0.5))


def test_resampling_keeps_the_sound_in_place() -> None:
    """A tone at another rate is the same tone, unshifted, below -80 dB."""
    resampled, made = resample(tone(44_100), 32_000), tone(32_000)
    inner = slice(1000, -1000)
    assert np.abs(resampled.samples[0, inner] - made.samples[0, inner]).max() < 1e-4


def test_channels() -> None:
    """Mono is copied, many become mono as their mean, 5.1 becomes stereo: no clipping, no bass channel."""
    mono = noise(1)
    assert np.array_equal(with_channels(mono, 3).samples, np.repeat(mono.samples, 3, axis=0))
    six = noise(6)
    assert np.allclose(with_channels(six, 1).samples[0], six.samples.mean(axis=0))
    full = Clip(np.ones((6, 4), np.float32), 1000)
    assert np.allclose(with_channels(full, 2).samples, 1.0)
    only_bass = Clip(np.eye(6, dtype=np.float32)[:, 3:4], 1000)
    assert not with_channels(only_bass, 2).samples.any()
    only_left = Clip(np.eye(6, dtype=np.float32)[:, 0:1], 1000)
    left, right = with_channels(only_left, 2).samples[:, 0]
    assert left > 0.4
    assert right == 0
    stereo = noise(2)
    widened = with_channels(stereo, 6).samples
    assert np.array_equal(widened[:2], stereo.samples)
    assert not widened[2:].any()
    assert np.allclose(with_channels(six, 4).samples[0], six.samples[[0, 4]].mean(axis=0))


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("wanted", range(1, 9))
def test_any_channel_count_to_any_other(channels: int, wanted: int) -> None:
    """The count is as asked and no sample is louder than before."""
    changed = with_channels(noise(channels), wanted)
    assert changed.samples.shape == (wanted, 1000)
    assert np.abs(changed.samples).max() <= 0.5 + 1e-6


def song(rate_hz: int, channels: int, level: float = 0.3) -> Clip:
    loop = make_loop(120, 5, "rock", rate_hz=rate_hz, seed=2)
    return Clip(np.repeat((level / 0.8) * loop[None], channels, axis=0), rate_hz)


def test_splice_keeps_the_original_and_its_format() -> None:
    """All before the tail is the original, bit for bit, at its rate and channels; the rest is as long as generated."""
    original = song(44_100, 2)
    generated = Clip(make_loop(120, 15, "rock", rate_hz=32_000, seed=4)[None], 32_000)
    spliced = splice(original, 6.0, generated)
    kept_samples = original.length_samples - 6 * 44_100
    assert (spliced.rate_hz, spliced.channels) == (44_100, 2)
    assert spliced.length_samples == kept_samples + 30 * 44_100
    assert np.array_equal(spliced.samples[:, :kept_samples], original.samples[:, :kept_samples])


@pytest.mark.parametrize("gain", [0.1, 0.5, 1.0, 2.0])
def test_splice_brings_the_rendered_tail_to_the_tails_loudness(gain: float) -> None:
    """Whatever level the codec gave it, a rendering equal to the tail but for its gain comes back as the tail."""
    original = song(32_000, 1)
    rendering = Clip(tail(original, 6.0).samples * np.float32(gain), 32_000)
    spliced = splice(original, 6.0, rendering)
    assert np.abs(spliced.samples - original.samples).max() < 1e-3


def test_continuing_again_and_again_does_not_drift() -> None:
    """Ten rounds through a codec that loses 3 dB end as loud as they began."""
    piece = song(32_000, 1)
    first_lufs = loudness_lufs(tail(piece, 4.0))
    for _ in range(10):
        prompt = tail(piece, 4.0)
        piece = splice(piece, 4.0, Clip(np.tile(prompt.samples, 2) * np.float32(0.7), 32_000))
    last_lufs = loudness_lufs(tail(piece, 4.0))
    assert first_lufs is not None
    assert last_lufs == pytest.approx(first_lufs, abs=0.2)


def test_splice_never_clips() -> None:
    """A rendering with one loud peak later on is lowered as a whole."""
    original = song(32_000, 1, level=0.9)
    generated = tail(original, 4.0).samples.copy()
    generated[0, -100] = 1.5
    assert np.abs(splice(original, 4.0, Clip(generated, 32_000)).samples[:, -100:]).max() <= PEAK_MAX + 1e-6


@pytest.mark.parametrize("silent", ["original", "generated", "both"])
def test_splice_with_silence(silent: str) -> None:
    """Silence on either side is no reason to amplify: every sample is finite and none is louder than it was."""
    quiet, loud = Clip(np.zeros((1, 64_000), np.float32), 32_000), tone(32_000, duration_s=2.0)
    original = loud if silent == "generated" else quiet
    generated = loud if silent == "original" else quiet
    spliced = splice(original, 1.0, generated)
    assert np.isfinite(spliced.samples).all()
    assert np.abs(spliced.samples).max() <= 0.5 + 1e-6


def test_splice_does_not_click() -> None:
    """At the joint no step is larger than a tone's own, though the rendering is of opposite phase."""
    original = tone(32_000, hz=100.0, duration_s=4.0)
    spliced = splice(original, 2.0, Clip(-tail(original, 2.0).samples, 32_000))
    joint = original.length_samples - 64_000
    steps = np.abs(np.diff(spliced.samples[0, joint - 1000 : joint + 1000]))
    own = np.abs(np.diff(original.samples[0])).max()
    fade = 1.0 / (JOIN_FADE_S * 32_000)
    assert steps.max() <= own + fade + 1e-6


def test_splice_where_the_prompt_is_everything() -> None:
    """A prompt as long as the original, or longer, leaves only what was generated."""
    original = tone(44_100)
    assert splice(original, 30.0, tone(32_000, duration_s=2.0)).length_samples == 88_200
