"""The decode engine beside audiocraft on a GPU: `benchmarks/gpu.sh run`, or `python -m benchmarks.gpu`.

musicgen-small's shape with random weights, guided. The ceiling comes first: what a copy on the device moves a second.
A step reads every weight, and the keys and values of every row up to its position; its share of the ceiling is those
bytes over what the copy would have moved in its time. Times are of many steps between two waits for the device, as
they are in service; audiocraft waits for each of its own.

`--device cpu --shape tiny` runs all of it on a CPU, in a minute, to see that it would run at all.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal

import torch

from benchmarks.contenders import DESCRIPTION, GUIDED, random_sequence
from gary.config import MIB, EngineConfig
from gary.engine.core import TokenRequest
from gary.engine.device import settle_arithmetic
from gary.engine.linear import DTYPES, Precision
from gary.engine.model import cache_dtype
from gary.engine.parts import make_parts
from tests.parity.models import SMALL, reshaped_model

POSITIONS = (301, 900, 1480)
STEPS = 20  # at each position; the window ends at 1504
FRAMES = 1500  # 30 s
COMPANIES = (1, 8, 32)
SHAPES: dict[str, dict[str, Any]] = {"small": SMALL, "tiny": {}}
RESULTS = Path(__file__).parent / "results"

Device = Literal["cpu", "cuda"]


def wait(device: Device) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(device: Device, work: Callable[[], object]) -> float:
    """Of a piece of work, until the device has done it."""
    wait(device)
    began_s = perf_counter()
    work()
    wait(device)
    return perf_counter() - began_s


class Audiocraft:
    """audiocraft's own streaming forward and sampler; on a GPU in fp16 and under autocast, as it serves itself."""

    def __init__(self, device: Device, shape: str, batch: int) -> None:
        from audiocraft.modules.conditioners import ClassifierFreeGuidanceDropout

        self._device: Device = device
        self._batch = batch
        dtype = "float32" if device == "cpu" else "float16"
        self._model = reshaped_model(device=device, dtype=dtype, **SHAPES[shape])
        attributes, _ = self._model._prepare_tokens_and_attributes([DESCRIPTION] * batch, None)
        null = ClassifierFreeGuidanceDropout(p=1.0)(attributes)
        provider = self._model.lm.condition_provider
        with torch.no_grad(), self._model.autocast:
            self._conditions = provider(provider.tokenize(attributes + null))
        self._streaming: Any = None

    def prefill_s(self, positions: int) -> float:
        if self._streaming is not None:
            self._streaming.__exit__(None, None, None)
        self._streaming = self._model.lm.streaming()
        self._streaming.__enter__()
        return seconds(self._device, lambda: self._feed(positions))

    def steps_s(self, steps: int) -> float:
        """Of so many steps together."""
        return seconds(self._device, lambda: [self._feed(1) for _ in range(steps)])

    @torch.no_grad()
    def _feed(self, positions: int) -> None:
        sequence = random_sequence(positions).repeat(self._batch, 1, 1).to(self._device)  # [B, K, S]
        with self._model.autocast:
            self._model.lm._sample_next_token(
                sequence, self._conditions, {}, use_sampling=True, temp=1.0, top_k=250, cfg_coef=3.0
            ).cpu()


class Ours:
    """Our engine's core."""

    def __init__(self, device: Device, shape: str, precision: Precision, slots: int) -> None:
        self._device: Device = device
        config = EngineConfig(
            device=device, precision=precision, slots=slots, prefill_chunk=512, cache_bytes=2 * slots * 400 * MIB
        )
        self.ready_s = seconds(device, lambda: self._make(shape, config))
        self._keys = 0
        self.running: list[int] = []

    def _make(self, shape: str, config: EngineConfig) -> None:
        model = reshaped_model(device=self._device, **SHAPES[shape])
        self.parts = make_parts(model, self._device, config)
        with torch.no_grad():
            self._cross = self.parts.decoder.cross_cache(self.parts.text.encode(DESCRIPTION))

    def clear(self) -> None:
        for key in self.running:
            self.parts.core.abort(key)
        self.running.clear()

    def join(self, prompt_frames: int, frames: int = FRAMES) -> int:
        """Adds a request and feeds its prompt; its key."""
        self._keys += 1
        prompt = random_sequence(prompt_frames)[0]  # [K, T]
        request = TokenRequest(self._keys, prompt, frames, self._cross, GUIDED, self._keys, stride_frames=900)
        self.parts.core.add(request)
        while self._keys not in {drawn.key for drawn in self.parts.core.step()}:
            pass
        self.running.append(self._keys)
        return self._keys

    def prefill_s(self, positions: int) -> float:
        self.clear()
        return seconds(self._device, lambda: self.join(positions - 1))

    def steps_s(self, steps: int) -> float:
        """Of so many steps together."""
        return seconds(self._device, lambda: [self.parts.core.step() for _ in range(steps)])

    def answer_s(self, prompt_frames: int) -> float:
        """Of the rest of 30 s after a prompt, its codes on the host; the prompt's own pass included."""
        self.clear()

        def run() -> None:
            key = self.join(prompt_frames)
            while not any(drawn.finished for drawn in self.parts.core.step()):
                pass
            self.parts.core.codes(key, 0, FRAMES)
            self.parts.core.forget(key)

        return seconds(self._device, run)

    def step_bytes(self, position: int, requests: int) -> int:
        """Read by a step of guided requests: weights once, keys and values of two rows each."""
        weights = self.parts.decoder.weights
        shape, width = weights.shape, weights.dtype.itemsize
        per_layer = (3 + 1 + 2 + 8) * shape.width**2  # self in and out, cross query and out, feed-forward
        matrices = (shape.layers * per_layer + shape.codebooks * shape.card * shape.width) * width
        row = 2 * shape.layers * position * shape.width * cache_dtype(weights, self._device).itemsize
        return matrices + 2 * requests * row


def main() -> None:
    """Prints the ceiling, figures as they come, and one JSON line, which is saved too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="small")
    parser.add_argument("--precision", choices=tuple(DTYPES), default=None, help="fp16 on a GPU, fp32 on a CPU")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device: Device = options.device
    precision: Precision = options.precision or ("fp16" if device == "cuda" else "fp32")
    settle_arithmetic()
    results: dict[str, Any] = {"machine": machine(device), "shape": options.shape, "precision": precision}
    ceiling = copy_gb_s(device)
    results["bandwidth_gb_s"] = round(ceiling)
    print(f"ceiling: a copy on the device moves {ceiling:.0f} GB/s; {results['machine']}", flush=True)

    solo = measure_one(device, options.shape, precision, options.rounds, ceiling)
    results |= solo | measure_companies(device, options.shape, precision, options.rounds, ceiling)
    RESULTS.mkdir(exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", f"{results['machine']} {options.shape} {precision}".lower()).strip("-")
    line = json.dumps(results)
    (RESULTS / f"{name}.json").write_text(line + "\n")
    print(line)


def machine(device: Device) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return f"{name}, torch {torch.__version__}"


def copy_gb_s(device: Device) -> float:
    """Bytes read and written by a copy, a second; best of 5."""
    source = torch.zeros(2**30 if device == "cuda" else 2**26, device=device)  # float32, larger than any cache
    target = torch.zeros_like(source)
    return 2 * source.nbytes / min(seconds(device, lambda: target.copy_(source)) for _ in range(5)) / 1e9


def measure_one(device: Device, shape: str, precision: Precision, rounds: int, ceiling: float) -> dict[str, Any]:
    """One request of each contender, in turns."""
    ours, theirs = Ours(device, shape, precision, slots=1), Audiocraft(device, shape, batch=1)
    print(f"ready after {ours.ready_s:.1f} s (random weights, and graphs where there are any)", flush=True)
    steps_ms: dict[str, dict[int, float]] = {"ours": {}, "audiocraft": {}}
    prefill_ms: dict[str, float] = {}
    for position in POSITIONS:
        times: dict[str, list[float]] = {"ours": [], "audiocraft": []}
        prefills: dict[str, list[float]] = {"ours": [], "audiocraft": []}
        for contender, name in ((ours, "ours"), (theirs, "audiocraft")) * rounds:
            prefills[name].append(1e3 * contender.prefill_s(position))
            contender.steps_s(2)
            times[name].append(1e3 * contender.steps_s(STEPS - 2) / (STEPS - 2))
        for name, each in times.items():
            steps_ms[name][position] = round(median(each), 3)
            if position == POSITIONS[0]:
                prefill_ms[name] = round(median(prefills[name]), 1)
        print(f"ms/step at {position}: { ({name: steps_ms[name][position] for name in steps_ms}) }", flush=True)
    share = {at: ours.step_bytes(at, 1) / ceiling / 1e6 / steps_ms["ours"][at] for at in POSITIONS}
    answer_s = min(ours.answer_s(300) for _ in range(rounds))
    print(f"24 s of new music in {answer_s:.2f} s; prefill of 301, ms: {prefill_ms}", flush=True)
    return {
        "ready_s": round(ours.ready_s, 2),
        "ms_per_step": steps_ms,
        "vs_audiocraft": [round(steps_ms["audiocraft"][at] / steps_ms["ours"][at], 1) for at in POSITIONS],
        "share_of_ceiling": {at: round(each, 3) for at, each in share.items()},
        "prefill_ms": prefill_ms,
        "new_24_s_in_s": round(answer_s, 3),
        **measure_memory(device, ours),
    }


def measure_memory(device: Device, ours: Ours) -> dict[str, Any]:
    """Memory held on the device after 50 requests over after 5; nothing where the device is the CPU."""
    if device == "cpu":
        return {}
    held = []
    for number in range(50):
        ours.clear()
        ours.join(20 + 7 * number)
        ours.steps_s(5)
        if number in (4, 49):
            held.append(torch.cuda.memory_allocated())
    ours.clear()
    peak = torch.cuda.max_memory_reserved()
    print(f"device memory: {held[0] / 1e6:.1f} MB after 5 requests, {held[1] / 1e6:.1f} MB after 50", flush=True)
    return {"memory_growth": round(held[1] / held[0], 4), "peak_reserved_mb": round(peak / 1e6)}


def measure_companies(device: Device, shape: str, precision: Precision, rounds: int, ceiling: float) -> dict[str, Any]:
    """Frames a second of so many requests that decode together from position 301 on."""
    ours = Ours(device, shape, precision, slots=max(COMPANIES))
    frames_s: dict[str, dict[int, float]] = {"ours": {}, "audiocraft": {}}
    shares: dict[int, float] = {}
    for company in COMPANIES:
        ours.clear()
        for _ in range(company):
            ours.join(300)
        ours.steps_s(2)
        step_s = median(ours.steps_s(STEPS) / STEPS for _ in range(rounds))
        theirs = Audiocraft(device, shape, batch=company)
        theirs.prefill_s(301)
        theirs.steps_s(2)
        their_s = median(theirs.steps_s(STEPS) / STEPS for _ in range(rounds))
        frames_s["ours"][company] = round(company / step_s, 1)
        frames_s["audiocraft"][company] = round(company / their_s, 1)
        shares[company] = round(ours.step_bytes(301, company) / ceiling / 1e9 / step_s, 3)
        print(
            f"{company} requests, frames/s: { ({name: each[company] for name, each in frames_s.items()}) }", flush=True
        )
    return {"frames_s": frames_s, "share_of_ceiling_by_requests": shares}


if __name__ == "__main__":
    main()
