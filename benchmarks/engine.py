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
RAGGED = [100 + 85 * index for index in range(8)]  # positions


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

    precision = default_precision("cpu")
    # first, while nothing else is resident
    results |= measure_start(precision, options.threads)
    results |= measure_memory(precision, options.threads)
    ours = {name: Ours(name, options.threads) for name in PRECISIONS}
    for name, contender in ours.items():
        ceiling_ms = contender.weight_bytes() / bandwidth / 1e6
        print(f"ceiling: {name} reads {contender.weight_bytes() / 1e9:.2f} GB a step: {ceiling_ms:.1f} ms")
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
    results |= measure_batch(precision, options.threads, options.rounds)
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


def measure_batch(precision: Precision, threads: int, rounds: int) -> dict[str, Any]:
    """Eight requests decoding at ragged positions, frames a second, in turns with audiocraft.

    audiocraft batches only what is of one length: it gets eight at the mean position, which is its best case.
    """
    mean = sum(RAGGED) // len(RAGGED)
    theirs = Audiocraft(batch=len(RAGGED))
    theirs.prefill_s(mean)
    ours = Ours(precision, threads, slots=len(RAGGED))
    core = ours.parts.core
    for position in RAGGED:
        core.add(ours.request(position, 1500))
    while len(core.step()) < len(RAGGED):
        pass
    times: dict[str, list[float]] = {"audiocraft": [], precision: []}
    for _ in range(rounds):
        times["audiocraft"] += theirs.steps_s(2)
        times[precision] += ours.steps_s(6)
    frames_s = {name: round(len(RAGGED) / median(seconds), 1) for name, seconds in times.items()}
    print(f"eight ragged requests, frames/s: {frames_s}")
    ratio = median(times["audiocraft"]) / median(times[precision])
    return {"batch8_frames_s": frames_s, "batch8_vs_audiocraft": round(ratio, 2)}


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


def measure_start(precision: Precision, threads: int) -> dict[str, Any]:
    """The small shape from random weights to an engine that has made a real pass."""
    before = resident_bytes()
    began_s = perf_counter()
    ours = Ours(precision, threads)
    ours.prefill_s(16)
    ready_s = perf_counter() - began_s
    print(f"start: ready after {ready_s:.1f} s (making the random weights included), {resident_bytes() / 1e6:.0f} MB")
    return {"ready_s": round(ready_s, 2), "ready_mb": round((resident_bytes() - before) / 1e6)}


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
