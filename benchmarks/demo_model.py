"""The demo model on held-out loops: `scripts/bench demo-model`. Every figure that is asked of it, one JSON line last.

The ceiling comes first: the same measures on the loops themselves, carried on. A piece is 8 s of new music after 6 s of
a loop that no training has heard and whose own tempo is found; the prompt goes in as codes without its last frames,
which the codec spoils. Tempi and grids are the generator's truth. The first pieces are made one by one, and timed; the
rest in company, which makes the same music sooner.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from gary.audio.clip import Samples
from gary.audio.ffmpeg import find_ffmpeg
from gary.config import MIB, EngineConfig
from gary.engine.batching import BatchingEngine
from gary.engine.request import AudioStretch, CodePrompt, GenerationRequest
from training.grid import FRAME_SAMPLES, FRAMES_S, RATE_HZ
from training.holes import has_hole
from training.judge import judge_renderings, judged_loops
from training.loops import Loop
from training.measures import (
    beat_error_ms,
    brightness,
    key_above_shuffled,
    resampled_through,
    tempo_is,
)
from training.score import words_for

PROMPT_FRAMES, SPOILT_FRAMES = 6 * FRAMES_S, 4
KEPT_FRAMES = PROMPT_FRAMES - SPOILT_FRAMES
MORE_S = 8.0
TONAL = {"bass", "chords", "lead"}
ASKED = {
    "codec_tempo_ratio": 0.95,
    "tempo_kept": 0.8,
    "beat_error_ms": 40,
    "key_above_shuffled": 0.75,
    "holes": 0.02,
    "guidance": 0.8,
    "realtime_factor": 1.0,
}


@dataclass(frozen=True, eq=False)
class Piece:
    """A loop, and what follows on its first frames, from `start_sample` on.

    Attributes:
        more: [N] float32 at 32 kHz.
    """

    loop: Loop
    more: Samples

    start_sample = KEPT_FRAMES * FRAME_SAMPLES

    @property
    def before(self) -> Samples:
        return self.loop.played(self.start_sample)


class Model:
    """A checkpoint in the engine that serves."""

    def __init__(self, checkpoint: Path, hub_home: Path, device: str, threads: int) -> None:
        config = EngineConfig(
            device="cuda" if device == "cuda" else "cpu",
            threads=threads,
            slots=6,
            cache_bytes=512 * MIB,
            hub_cache_dir=hub_home,
            hub_offline=True,
        )
        began_s = perf_counter()
        self._engine = BatchingEngine.start(str(checkpoint), config)
        self.start_s = perf_counter() - began_s
        self._codec = self._engine._parts.codec

    def render(self, wave: Samples) -> Samples:
        """What is left of a wave [N] once it was codes."""
        decoder = self._codec.streaming_decoder()
        codes = self._codec.encode(wave[None])
        return np.concatenate([decoder.push(codes), decoder.finish()], axis=1)[0, : len(wave)]

    def go_on(self, loops: list[Loop], alone: int) -> tuple[list[Samples], list[float]]:
        """What follows on each loop's first frames, and how many seconds the first `alone` of them took."""
        asked = [self._following(loop, seed) for seed, loop in enumerate(loops)]
        made, took_s = [], []
        for one in asked[:alone]:
            began_s = perf_counter()
            made += self.make([one])
            took_s.append(perf_counter() - began_s)
        made += self.make(asked[alone:])
        return [whole[Piece.start_sample :] for whole in made], took_s

    def _following(self, loop: Loop, seed: int) -> tuple[GenerationRequest, CodePrompt]:
        codes = self._codec.encode(loop.played(PROMPT_FRAMES * FRAME_SAMPLES)[None])[:, :KEPT_FRAMES]
        prompt = CodePrompt(codes.cpu().numpy().astype(np.int16), self._codec.sha256)
        duration_s = KEPT_FRAMES / FRAMES_S + MORE_S
        return GenerationRequest(f"piece {seed}", duration_s, seed, loop.description), prompt

    def make(self, asked: Sequence[tuple[GenerationRequest, CodePrompt | None]]) -> list[Samples]:
        """Whole answers, [N] float32 each, made at the same time."""

        async def listen(request: GenerationRequest, prompt: CodePrompt | None) -> Samples:
            events = self._engine.generate(request, prompt)
            return np.concatenate([event.clip.samples[0] async for event in events if isinstance(event, AudioStretch)])

        async def listen_to_all() -> list[Samples]:
            return await asyncio.gather(*(listen(*each) for each in asked))

        return asyncio.run(listen_to_all())

    def close(self) -> None:
        self._engine.close()


def figures_of(pieces: list[Piece]) -> dict[str, float]:
    """The figures of continuations, whoever made them."""
    tonal = [piece for piece in pieces if TONAL & set(piece.loop.score.parts)]
    shuffled = pairwise([*pieces, pieces[0]])
    errors = [beat_error_ms(piece.more, piece.before, RATE_HZ, piece.loop.bpm, piece.start_sample) for piece in pieces]
    key = key_above_shuffled([piece.more for piece in tonal], [piece.before for piece in tonal], RATE_HZ)
    return {
        "tempo_kept": _share(tempo_is(piece.more, RATE_HZ, piece.loop.bpm) for piece in pieces),
        "tempo_kept_shuffled": _share(tempo_is(piece.more, RATE_HZ, other.loop.bpm) for piece, other in shuffled),
        "beat_error_ms": round(median(errors), 1),
        "key_above_shuffled": round(key, 3),
        "holes": _share(has_hole(piece.more, RATE_HZ) for piece in pieces),
    }


def guidance(model: Model, pairs: int) -> float:
    """The share of pairs, of one seed and nothing but a description, in which drums only are the brighter."""
    asked = [
        (GenerationRequest(f"{parts} {seed}", MORE_S, seed, words_for(parts)), None)
        for seed in range(pairs)
        for parts in (("drums",), ("bass", "chords"))
    ]
    made = [brightness(wave, RATE_HZ) for wave in model.make(asked)]
    return _share(drums > tones for drums, tones in zip(made[::2], made[1::2], strict=True))


def codec_figures(model: Model, count: int) -> dict[str, dict[str, float]]:
    """The codec beside two that everybody knows."""
    judged = judged_loops(count)
    return {
        "codec": judge_renderings(model.render, judged),
        "mp3_32_kbit": judge_renderings(through_mp3, judged),
        "resampled_8_khz": judge_renderings(lambda wave: resampled_through(wave, RATE_HZ, 8000), judged),
    }


def through_mp3(wave: Samples) -> Samples:
    """A wave [N] that has been an MP3 of 32 kbit/s, put back to where it was in time."""
    raw = ["-f", "f32le", "-ar", str(RATE_HZ), "-ac", "1"]
    ffmpeg = [str(find_ffmpeg()), "-hide_banner", "-loglevel", "error"]
    encode = [*ffmpeg, *raw, "-i", "-", "-c:a", "libmp3lame", "-b:a", "32k", "-f", "mp3", "-"]
    mp3 = subprocess.run(encode, input=wave.tobytes(), capture_output=True, check=True).stdout
    back = subprocess.run([*ffmpeg, "-i", "-", *raw, "-"], input=mp3, capture_output=True, check=True).stdout
    made = np.frombuffer(back, np.float32)
    size = len(made) + len(wave)
    agreement = np.fft.irfft(np.fft.rfft(made, size) * np.fft.rfft(wave, size).conj(), size)
    late = int(agreement[:4000].argmax())  # of a coder's delay, a few thousand samples at most
    return np.asarray(np.pad(made[late : late + len(wave)], (0, max(0, len(wave) - len(made) + late))), np.float32)


def draw(pieces: list[Piece], directory: Path) -> None:
    """Spectrograms of prompts with what follows, a line between."""
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    for number, piece in enumerate(pieces, start=1):
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.add_subplot()
        axes.specgram(np.concatenate([piece.before, piece.more]) + 1e-6, NFFT=1024, Fs=RATE_HZ, noverlap=768, vmin=-120)
        axes.axvline(piece.start_sample / RATE_HZ, color="white", linewidth=1)
        axes.set(ylim=(0, 12_000), xlabel="s", ylabel="Hz", title=piece.loop.description)
        figure.savefig(directory / f"demo-model-{number}.png", dpi=80)


def _share(found: Any) -> float:
    return round(float(np.mean(list(found))), 4)


def _print(name: str, figures: dict[str, float]) -> None:
    print(f"{name:>16}: " + "  ".join(f"{figure} {value:g}" for figure, value in figures.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="hub home and checkpoints")
    parser.add_argument("--checkpoint", default="gary-demo", help="its directory there")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="as serve_config.dev.yaml has it")
    parser.add_argument("--pieces", type=int, default=100)
    parser.add_argument("--alone", type=int, default=20, help="pieces that are made one by one, and timed")
    parser.add_argument("--pairs", type=int, default=50, help="that are compared for guidance")
    parser.add_argument("--codec-loops", type=int, default=200)
    parser.add_argument("--pictures", type=Path, default=Path("out/demo-model"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # the engine's own are apart
    loops = judged_loops(options.pieces)

    truth = [Piece(loop, loop.played(round(MORE_S * RATE_HZ), Piece.start_sample)) for loop in loops]
    ceiling = figures_of(truth)
    _print("ceiling", ceiling)
    model = Model(options.models / options.checkpoint, options.models, options.device, options.threads)
    codecs = codec_figures(model, options.codec_loops)
    for name, figures in codecs.items():
        _print(name, figures)
    made, took_s = model.go_on(loops, options.alone)
    pieces = [Piece(loop, more) for loop, more in zip(loops, made, strict=True)]
    figures = {"codec_tempo_ratio": codecs["codec"]["tempo_ratio"], **figures_of(pieces)}
    figures["realtime_factor"] = round(MORE_S / median(took_s), 2)
    figures["guidance"] = guidance(model, options.pairs)
    figures["start_s"] = round(model.start_s, 2)
    _print("model", figures)
    _print("asked", ASKED)
    draw(pieces[:6], options.pictures)
    model.close()
    print(json.dumps({**figures, "ceiling": ceiling, "codecs": codecs, "pieces": len(pieces), "asked": ASKED}))


if __name__ == "__main__":
    main()
