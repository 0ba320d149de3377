"""How good: tempo, grid, key and bands of a piece beside another, and how far a sound is from the wanted one.

Numbers in, numbers out: no model, no file. Signals are [N] float32 at `rate_hz`.
"""

from __future__ import annotations

from itertools import pairwise

import librosa
import numpy as np
import numpy.typing as npt
import soxr

from gary.audio.clip import Clip, Samples
from gary.audio.tempo import estimate_tempo

TEMPO_SLACK = 0.04
_BAR_PARTS = 192  # of a bar, in which its onsets are compared


def tempo_is(wave: Samples, rate_hz: int, bpm: float) -> bool:
    """Whether this tempo is found in a piece, within 4 %; an octave off is not found."""
    found = estimate_tempo(Clip(wave[None], rate_hz))
    return found is not None and abs(found.bpm / bpm - 1) <= TEMPO_SLACK


def beat_error_ms(wave: Samples, before: Samples, rate_hz: int, bpm: float, start_sample: int) -> float:
    """How far a piece's onsets lie off the grid of what came before it: 0 in time, a quarter of a bar by chance.

    Both are folded to one bar; the error is the shift at which the two bars agree best.

    Args:
        before: began at sample 0; `wave` begins at `start_sample` of the same clock.
    """
    bar_s = 240 / bpm
    theirs = _folded_onsets(before, rate_hz, bar_s, 0)
    ours = _folded_onsets(wave, rate_hz, bar_s, start_sample)
    agreement = np.fft.irfft((np.fft.rfft(ours) * np.fft.rfft(theirs).conj()).sum(axis=0), n=_BAR_PARTS)
    shift = int(agreement.argmax())
    return 1000 * bar_s * min(shift, _BAR_PARTS - shift) / _BAR_PARTS


def _folded_onsets(wave: Samples, rate_hz: int, bar_s: float, start_sample: int) -> npt.NDArray[np.float64]:
    """Onset strength of three bands over a bar, [3, _BAR_PARTS], each of mean 0 and norm at most 1."""
    hop_samples = rate_hz // 200
    spectrum = np.abs(librosa.stft(wave, n_fft=4 * hop_samples, hop_length=hop_samples))
    edges = [1, *np.searchsorted(librosa.fft_frequencies(sr=rate_hz, n_fft=4 * hop_samples), (200, 3000)), -1]
    loud = np.log1p(100 * spectrum / max(float(spectrum.max()), 1e-9))
    rise = np.maximum(np.diff(loud, axis=1), 0)
    bands = np.stack([rise[low:high].mean(axis=0) for low, high in pairwise(edges)])  # [3, T]
    at_s = (np.arange(1, bands.shape[1] + 1) * hop_samples + start_sample) / rate_hz
    part = np.floor((at_s / bar_s % 1) * _BAR_PARTS).astype(int)
    heard = np.maximum(np.bincount(part, minlength=_BAR_PARTS), 1)
    folded = np.stack([np.bincount(part, band, _BAR_PARTS) / heard for band in bands])
    folded -= folded.mean(axis=1, keepdims=True)
    return np.asarray(folded / np.maximum(np.linalg.norm(folded, axis=1, keepdims=True), 1e-9), np.float64)


def chroma(wave: Samples, rate_hz: int) -> npt.NDArray[np.float64]:
    """How much each of the twelve pitch classes sounds, [12], of mean 0 and norm 1."""
    strength = librosa.feature.chroma_stft(y=wave, sr=rate_hz, n_fft=4096, hop_length=2048, tuning=0.0).mean(axis=1)
    centred = strength - strength.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-9), np.float64)


def key_above_shuffled(pieces: list[Samples], befores: list[Samples], rate_hz: int) -> float:
    """The share of pieces whose chroma is nearer to what came before them than to what came before others.

    Nearer than to the mean of the others': by chance one half.
    """
    ours, theirs = (np.stack([chroma(wave, rate_hz) for wave in waves]) for waves in (pieces, befores))
    likeness = ours @ theirs.T  # [pieces, befores]
    own = likeness.diagonal()
    others = (likeness.sum(axis=1) - own) / (len(pieces) - 1)
    return float((own > others).mean())


def brightness(wave: Samples, rate_hz: int) -> float:
    """How much of the spectrum's amplitude lies above 5 kHz, where here only drums are: 0 to 1."""
    spectrum = np.abs(librosa.stft(wave, n_fft=1024)).mean(axis=1)
    above = librosa.fft_frequencies(sr=rate_hz, n_fft=1024) > 5000
    return float(spectrum[above].sum() / max(float(spectrum.sum()), 1e-9))


def si_sdr_db(made: Samples, wanted: Samples) -> float:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019, arXiv 1811.02508)."""
    target = float(made @ wanted) / max(float(wanted @ wanted), 1e-9) * wanted
    noise = made - target
    return float(10 * np.log10(max(float(target @ target), 1e-12) / max(float(noise @ noise), 1e-12)))


def mel_distance_db(made: Samples, wanted: Samples, rate_hz: int) -> float:
    """Mean difference of the levels of 80 mel bands, those below -60 dB of the loudest left out of account."""
    levels = [_mel_db(wave, rate_hz) for wave in (made, wanted)]
    floor = levels[1].max() - 60
    return float(np.abs(np.maximum(levels[0], floor) - np.maximum(levels[1], floor)).mean())


def _mel_db(wave: Samples, rate_hz: int) -> npt.NDArray[np.float64]:
    mel = librosa.feature.melspectrogram(y=wave, sr=rate_hz, n_fft=1024, hop_length=256, n_mels=80)
    return np.asarray(10 * np.log10(mel + 1e-10), np.float64)


def resampled_through(wave: Samples, rate_hz: int, low_rate_hz: int) -> Samples:
    """A wave that has been at a lower rate and come back: what is lost is what lies above half of that rate."""
    down = soxr.resample(wave, rate_hz, low_rate_hz)
    back = soxr.resample(down, low_rate_hz, rate_hz)[: len(wave)]
    return np.asarray(np.pad(back, (0, len(wave) - len(back))), np.float32)
