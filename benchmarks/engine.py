"""The decode engine beside audiocraft and transformers: `scripts/bench engine`.

All of it in one process and one run, the contenders in turns, medians; musicgen-small's shape with random weights,
guided, on the CPU. The ceiling is what this machine's memory gives: decoding reads every weight once a step.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks.contenders import Audiocraft, Contender, Ours, Transformers
from gary.engine.linear import Precision, default_precision

POSITIONS = (301, 900, 1480)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
RAGGED = [(100 + 25 * index, 24 + 8 * index) for index in range(8)]  # (prompt frames, new frames)


def main() -> None:
    """Prints the ceiling, a table, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="of each contender in each round, at each position")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {"machine": machine(options.threads)}
    bandwidth = memory_bandwidth_gb_s()
    results["bandwidth_gb_s"] = round(bandwidth, 1)
    print(f"ceiling: memory gives {bandwidth:.1f} GB/s (copy of 1 GB, best of 5)")

    ours = {precision: Ours(precision, options.threads) for precision in PRECISIONS}
    for precision, contender in ours.items():
        ceiling_ms = contender.weight_bytes() / bandwidth / 1e6
        print(f"ceiling: {precision} reads {contender.weight_bytes() / 1e9:.2f} GB a step: {ceiling_ms:.1f} ms")
    audiocraft, transformers = Audiocraft(), Transformers()
    everyone: list[Contender] = [audiocraft, transformers, *ours.values()]

    steps_ms = measure_steps(everyone, options.rounds, options.steps)
    prefill_ms = {each.name: 1e3 * median(each.prefill_s(301) for _ in range(3)) for each in everyone}
    for each in everyone:
        row = " ".join(f"{steps_ms[each.name][position]:8.1f}" for position in POSITIONS)
        print(f"{each.name:>12}: ms/step at {POSITIONS}: {row}   prefill of 301: {prefill_ms[each.name]:.0f} ms")
    results |= {"ms_per_step": steps_ms, "prefill_ms": prefill_ms}
    results |= ratios(steps_ms, prefill_ms)

    del ours, everyone
    gc.collect()
    precision = default_precision("cpu")
    results |= measure_batch(audiocraft, precision, options.threads)
    results |= measure_memory(precision, options.threads)
    results |= measure_start(options.threads)
    print(json.dumps(results))


def machine(threads: int) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line for line in lines if line.startswith("flags")), "")
    units = [unit for unit in ("amx_tile", "avx512_bf16", "avx512f", "avx2") if unit in flags]
    return f"{model}, {threads} threads, {'+'.join(units)}, torch {torch.__version__}"


def memory_bandwidth_gb_s() -> float:
    """Bytes read and written by a copy, a second."""
    source = torch.zeros(2**28)  # 1 GiB of float32
    target = torch.zeros_like(source)
    best_s = min(_seconds(lambda: target.copy_(source)) for _ in range(5))
    return 2 * source.nbytes / best_s / 1e9


def _seconds(work: Any) -> float:
    began_s = perf_counter()
    work()
    return perf_counter() - began_s


def measure_steps(everyone: list[Contender], rounds: int, steps: int) -> dict[str, dict[int, float]]:
    """Median ms per step of each at each position; they take turns, so that the machine's moods meet all of them."""
    found: dict[str, dict[int, float]] = {each.name: {} for each in everyone}
    for position in POSITIONS:
        times: dict[str, list[float]] = {each.name: [] for each in everyone}
        for each in everyone:
            each.prefill_s(position)
            each.steps_s(1)
        for _ in range(rounds):
            for each in everyone:
                times[each.name] += each.steps_s(steps)
        for name, seconds in times.items():
            found[name][position] = round(1e3 * median(seconds), 2)
    return found


def ratios(steps_ms: dict[str, dict[int, float]], prefill_ms: dict[str, float]) -> dict[str, Any]:
    """The figures that are asked of the engine."""

    def over(theirs: str, ours: str) -> list[float]:
        return [round(steps_ms[theirs][position] / steps_ms[ours][position], 2) for position in POSITIONS]

    return {
        "vs_audiocraft_fp32": over("audiocraft", "fp32"),
        "vs_audiocraft_bf16": over("audiocraft", "bf16"),
        "vs_audiocraft_int8": over("audiocraft", "int8"),
        "vs_transformers_bf16": over("transformers", "bf16"),
        "prefill_vs_audiocraft": round(prefill_ms["audiocraft"] / prefill_ms["bf16"], 2),
        "step_growth": round(steps_ms["bf16"][1480] / steps_ms["bf16"][301], 3),
    }


def measure_batch(audiocraft: Audiocraft, precision: Precision, threads: int) -> dict[str, Any]:
    """Eight ragged requests, frames a second, prefill included.

    audiocraft can only run a batch of one prompt length and one length: it gets the shortest prompt for all and runs
    to the longest answer; the frames that were asked for count.
    """
    frames = sum(new for _, new in RAGGED)
    prompt_frames, longest = min(prompt for prompt, _ in RAGGED), max(new for _, new in RAGGED)
    theirs_s = _seconds(lambda: audiocraft.generate(8, prompt_frames, longest))

    ours = Ours(precision, threads, slots=8)
    core = ours.parts.core

    def run() -> None:
        for prompt, new in RAGGED:
            core.add(ours.request(prompt, prompt + new))
        while core.busy:
            for drawn in core.step():
                if drawn.finished:
                    core.forget(drawn.key)

    ours_s = _seconds(run)
    print(f"eight ragged requests: audiocraft {frames / theirs_s:.1f} frames/s, {precision} {frames / ours_s:.1f}")
    return {
        "batch8_frames_s": {"audiocraft": round(frames / theirs_s, 2), precision: round(frames / ours_s, 2)},
        "batch8_vs_audiocraft": round(theirs_s / ours_s, 2),
    }


def measure_memory(precision: Precision, threads: int) -> dict[str, Any]:
    """Resident memory after 50 requests over after 5."""
    ours = Ours(precision, threads)
    core = ours.parts.core
    resident = []
    for number in range(1, 51):
        core.add(ours.request(20 + number % 7, 30 + number % 7))
        while core.busy:
            for drawn in core.step():
                if drawn.finished:
                    core.forget(drawn.key)
        if number in (5, 50):
            resident.append(resident_bytes())
    print(f"resident: {resident[0] / 1e6:.0f} MB after 5 requests, {resident[1] / 1e6:.0f} MB after 50")
    return {"memory_growth": round(resident[1] / resident[0], 4)}


def measure_start(threads: int) -> dict[str, Any]:
    """From a loaded checkpoint of the small shape to an engine that can serve, the slowest packing."""
    before = resident_bytes()
    began_s = perf_counter()
    ours = Ours("bf16", threads)
    ours.prefill_s(16)
    ready_s = perf_counter() - began_s
    print(f"start: ready after {ready_s:.1f} s (making the random weights included), {resident_bytes() / 1e6:.0f} MB")
    return {"ready_s": round(ready_s, 2), "ready_mb": round((resident_bytes() - before) / 1e6)}


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
