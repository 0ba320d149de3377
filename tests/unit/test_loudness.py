"""Loudness is brought to its target by one gain that cannot clip."""

from __future__ import annotations

import numpy as np
import pytest

from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.loudness import PEAK_MAX, TARGET_LUFS, loudness_lufs, normalise

RATE_HZ = 48_000


def tone(level: float, duration_s: float = 2.0, channels: int = 1) -> Clip:
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    sine = (level * np.sin(2 * np.pi * 997 * time_s)).astype(np.float32)
    return Clip(np.repeat(sine[None], channels, axis=0), RATE_HZ)


def test_the_standards_own_example() -> None:
    """ITU-R BS.1770: a 997 Hz sine at full scale in one channel reads -3.01 LUFS."""
    assert loudness_lufs(tone(1.0)) == pytest.approx(-3.01, abs=0.05)


def test_a_quiet_tone_reaches_the_target_by_one_gain() -> None:
    """The result is at -14 LUFS and proportional to the input, sample by sample."""
    clip = tone(0.02, channels=2)
    louder = normalise(clip)
    assert loudness_lufs(louder) == pytest.approx(TARGET_LUFS, abs=0.01)
    gain = np.abs(louder.samples).max() / np.abs(clip.samples).max()
    assert np.allclose(louder.samples, clip.samples * gain, atol=1e-7)


def test_loud_music_is_lowered() -> None:
    """What is over the target comes down to it."""
    assert loudness_lufs(normalise(tone(0.9))) == pytest.approx(TARGET_LUFS, abs=0.01)


def test_peaks_bound_the_gain() -> None:
    """Sparse clicks cannot reach the target without clipping, and so they do not."""
    samples = tone(0.001).samples.copy()
    samples[0, ::24_000] = 0.5
    assert np.abs(normalise(Clip(samples, RATE_HZ)).samples).max() == pytest.approx(PEAK_MAX, abs=1e-6)


@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_silence_stays_as_it_is(level: float) -> None:
    """Nothing is amplified out of silence, digital or nearly so, and nothing warns."""
    clip = tone(level)
    assert loudness_lufs(clip) is None
    assert np.array_equal(normalise(clip).samples, clip.samples)


@pytest.mark.parametrize("duration_s", [0.1, 0.25, 0.3999, 0.4, 0.4001])
def test_short_clips_are_measured_too(duration_s: float) -> None:
    """Under the standard's 400 ms block, a clip reads as a longer one of the same sound does."""
    found_lufs = loudness_lufs(tone(0.1, duration_s))
    assert found_lufs == pytest.approx(-23.01, abs=0.5)


@pytest.mark.parametrize("length_samples", [1, 2, 100, 479, 480, 481])
def test_the_shortest_clips_are_served(length_samples: int) -> None:
    """Down to a single sample, a finite clip comes back."""
    clip = Clip(np.full((1, length_samples), 0.3, np.float32), RATE_HZ)
    assert np.isfinite(normalise(clip).samples).all()


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("rate_hz", [8_000, 32_000, 192_000])
def test_any_format_is_served(channels: int, rate_hz: int) -> None:
    """One to eight channels at 8 to 192 kHz, from memory that cannot be written to."""
    samples = np.repeat(0.1 * make_loop(120, 1, "rock", rate_hz=rate_hz)[None], channels, axis=0)
    samples.flags.writeable = False
    assert np.abs(normalise(Clip(samples, rate_hz)).samples).max() > np.abs(samples).max()
