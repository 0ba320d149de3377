"""What the codec is trained for: how a sound differs from another, in decibels of its bands, in how these rise and
fall, in its flux (which is what a beat is heard by), and in its low waves.

Everything is measured against the loudness of the wanted sound, so that a quiet loop counts as much as a loud one.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torchaudio  # type: ignore[import-untyped]
from torch import Tensor, nn

from training.grid import RATE_HZ

_FLOOR = 1e-3  # of a band, beside an RMS of 1: -60 dB; what lies below is nobody's business
_WINDOWS = ((256, 32), (512, 48), (1024, 80), (2048, 96))  # samples, mel bands
_FLUX_WINDOWS = (1024, 2048)  # samples
_FLUX_EDGES_HZ = (20, 150, 600, 1500, 4000, 6500, 11_000)
_FLUX_LEAST = 0.2  # of all bands' mean power: a band in which nearly nothing happens counts for no more than that


class Likeness(nn.Module):
    """Differences of log-mel bands, of their changes, of magnitudes and of flux in several resolutions, and the
    waveform's below `wave_below_hz`.

    Args:
        wave_weight: of the waveform; 0 leaves it out.
        flux_weight: of the flux.
    """

    def __init__(self, wave_weight: float, flux_weight: float, wave_below_hz: float = 2000.0) -> None:
        super().__init__()
        self._wave_weight, self._flux_weight, self._wave_below_hz = wave_weight, flux_weight, wave_below_hz
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
        log_mel, magnitude, onset, flux = (made.new_zeros(()) for _ in range(4))
        for window, _ in _WINDOWS:
            x, y = self._magnitudes(made, window), self._magnitudes(wanted, window)  # [B, F, T]
            bank = self.get_buffer(f"bank_{window}")
            x_mel, y_mel = x.transpose(1, 2) @ bank, y.transpose(1, 2) @ bank  # [B, T, M]
            off = (x_mel + _FLOOR).log() - (y_mel + _FLOOR).log()
            log_mel = log_mel + off.abs().mean()
            onset = onset + off.diff(dim=1).abs().mean()
            magnitude = magnitude + (x - y).abs().mean() / y.mean().clamp_min(_FLOOR)
            if window in _FLUX_WINDOWS:
                loudest = y.amax(dim=(1, 2), keepdim=True)
                flux = flux + flux_error(_flux(x / loudest), _flux(y / loudest)) / len(_FLUX_WINDOWS)
        log_mel, magnitude, onset = (each / len(_WINDOWS) for each in (log_mel, magnitude, onset))
        low = low_passed(made - wanted, self._wave_below_hz).abs().mean()
        loss = log_mel + magnitude + onset + self._wave_weight * low + self._flux_weight * flux
        parts = {"log_mel": log_mel, "magnitude": magnitude, "onset": onset, "low_wave": low, "flux": flux}
        return loss, {name: part.detach() for name, part in parts.items()}

    def _magnitudes(self, wave: Tensor, window: int) -> Tensor:
        """[B, F, T], a full-scale sine near 1."""
        shape = self.get_buffer(f"window_{window}")
        spectrum = torch.stft(wave[:, 0], window, window // 4, window=shape, return_complex=True)
        power: Tensor = spectrum.real.square() + spectrum.imag.square() + 1e-12
        return power.sqrt() * (2 / window)


def _flux(magnitudes: Tensor) -> Tensor:
    """How much the bins of each band rise from one frame to the next, on an average: [B, F, T] to [B, bands, T - 1].

    Args:
        magnitudes: the loudest is 1; what is 40 dB below counts as it is, what is louder by its logarithm.
    """
    rise = torch.log1p(100 * magnitudes).diff(dim=2).clamp_min(0)
    bin_hz = RATE_HZ / 2 / (magnitudes.shape[1] - 1)
    edges = [math.ceil(edge_hz / bin_hz) for edge_hz in _FLUX_EDGES_HZ]
    return torch.stack([rise[:, low:high].mean(dim=1) for low, high in pairwise(edges)], dim=1)


def flux_error(made: Tensor, wanted: Tensor) -> Tensor:
    """How far flux is off, squared, and how far its mean is: peaks are to be as high, and what is between as low.

    Squared, since where it is not known whether something rises, the least absolute error is made by saying never.

    Args:
        made, wanted: [B, bands, T].
    """
    power, level = wanted.square().mean(dim=(0, 2)), wanted.mean(dim=(0, 2))  # [bands]
    power, level = (torch.maximum(each, _FLUX_LEAST * each.mean()) for each in (power, level))
    off = (made - wanted).square().mean(dim=(0, 2)) / power
    off_in_all = (made.mean(dim=2) - wanted.mean(dim=2)).abs().mean(dim=0) / level
    return (off + 0.5 * off_in_all).mean()


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
