"""What the codec is trained for: how a sound differs from another, in decibels of its bands, in how these rise and
fall (which is what a beat is heard by), and in its low waves.

Everything is measured against the loudness of the wanted sound, so that a quiet loop counts as much as a loud one.
"""

from __future__ import annotations

import torch
import torchaudio  # type: ignore[import-untyped]
from torch import Tensor, nn

from training.grid import RATE_HZ

_FLOOR = 1e-3  # of a band, beside an RMS of 1: -60 dB; what lies below is nobody's business
_WINDOWS = ((256, 32), (512, 48), (1024, 80), (2048, 96))  # samples, mel bands


class Likeness(nn.Module):
    """Differences of log-mel bands, of their changes and of magnitudes in several resolutions, and the waveform's below
    `wave_below_hz`.

    Args:
        wave_weight: of the waveform; 0 leaves it out.
    """

    def __init__(self, wave_weight: float, wave_below_hz: float = 2000.0) -> None:
        super().__init__()
        self._wave_weight, self._wave_below_hz = wave_weight, wave_below_hz
        for window, bands in _WINDOWS:
            bank = torchaudio.functional.melscale_fbanks(window // 2 + 1, 20.0, 16_000.0, bands, RATE_HZ)
            self.register_buffer(f"bank_{window}", bank, persistent=False)  # [F, M]
            self.register_buffer(f"window_{window}", torch.hann_window(window), persistent=False)

    def forward(self, made: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its parts detached.

        Args:
            made, wanted: [B, 1, N] float32.
        """
        loudness = wanted.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-4)
        made, wanted = made / loudness, wanted / loudness
        log_mel, magnitude, onset = (made.new_zeros(()) for _ in range(3))
        for window, _ in _WINDOWS:
            x, y = self._magnitudes(made, window), self._magnitudes(wanted, window)  # [B, F, T]
            bank = self.get_buffer(f"bank_{window}")
            x_mel, y_mel = x.transpose(1, 2) @ bank, y.transpose(1, 2) @ bank  # [B, T, M]
            off = (x_mel + _FLOOR).log() - (y_mel + _FLOOR).log()
            log_mel = log_mel + off.abs().mean()
            onset = onset + off.diff(dim=1).abs().mean()
            magnitude = magnitude + (x - y).abs().mean() / y.mean().clamp_min(_FLOOR)
        log_mel, magnitude, onset = (each / len(_WINDOWS) for each in (log_mel, magnitude, onset))
        low = low_passed(made - wanted, self._wave_below_hz).abs().mean()
        loss = log_mel + magnitude + onset + self._wave_weight * low
        parts = {"log_mel": log_mel, "magnitude": magnitude, "onset": onset, "low_wave": low}
        return loss, {name: part.detach() for name, part in parts.items()}

    def _magnitudes(self, wave: Tensor, window: int) -> Tensor:
        """[B, F, T], a full-scale sine near 1."""
        shape = self.get_buffer(f"window_{window}")
        spectrum = torch.stft(wave[:, 0], window, window // 4, window=shape, return_complex=True)
        power: Tensor = spectrum.real.square() + spectrum.imag.square() + 1e-12
        return power.sqrt() * (2 / window)


def low_passed(wave: Tensor, below_hz: float) -> Tensor:
    """What of a wave [B, 1, N] lies below a frequency."""
    spectrum = torch.fft.rfft(wave)
    kept = round(below_hz * wave.shape[-1] / RATE_HZ) + 1
    spectrum = torch.cat([spectrum[..., :kept], torch.zeros_like(spectrum[..., kept:])], dim=-1)
    low: Tensor = torch.fft.irfft(spectrum, n=wave.shape[-1])
    return low


def si_sdr_db(made: Tensor, wanted: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio, [B], of [B, 1, N] (Le Roux et al. 2019, arXiv 1811.02508)."""
    scale = (made * wanted).sum(-1, keepdim=True) / wanted.square().sum(-1, keepdim=True).clamp_min(1e-9)
    target = scale * wanted
    noise = (made - target).square().sum(-1).clamp_min(1e-12)
    ratio: Tensor = 10 * (target.square().sum(-1).clamp_min(1e-12) / noise).log10()
    return ratio[:, 0]
