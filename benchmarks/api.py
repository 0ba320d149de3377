"""The service as a client meets it, over HTTP on this machine: `scripts/bench api`.

A service of its own is started twice, behind Serve's proxy and behind HAProxy, on the tiny checkpoint; for the last
figure a model of musicgen-small's shape is served besides. Client and service share the cores, so the rates are what
the machine gives to both. One JSON line last.

    first_audio_s    from POST to the first sample of a live stream that is not zero; an upload continued
    finish_s         from the last frame's being drawn to "completed", 30 s of music; by the service's own clock
    get_rps, get_p50_ms, get_p99_ms
                     GET of a completed task, by proxy and clients at once
    upload_30mb_s    POST of a 30 MB WAV, to its 202
    overhead_share   of a task's wall time on the small shape (8 s of new music after an upload, from POST to the word
                     of its end), all but the decode: the upload, the queue, the prompt, storing; nothing is fetched
    decode_vs_alone  that decode, over the same request made by the engine in a process with nothing beside it
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import httpx
import numpy as np
import yaml
from httpx_sse import connect_sse

from benchmarks.api_load import get_load
from benchmarks.checkpoints import small_shape
from benchmarks.engine import machine
from examples.local import laptop_config, local_service
from examples.loops import make_loop
from gary.audio.clip import Clip
from gary.audio.crop import tail
from gary.audio.files import encode_wav
from tests.running import free_port

TINY, SMALL = "gary-tiny", "bench-small"
CLIENTS = (1, 16, 64)
WAV_HEADER_BYTES = 44
PROXIES: dict[str, dict[str, str]] = {"serve": {}, "haproxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1"}}
SMALL_SECONDS = 8.0
PROMPT_S = 6.0


def main() -> None:
    """Prints what it measures as it goes, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load-s", type=float, default=5.0, help="of each load of GETs")
    parser.add_argument("--skip-small", action="store_true", help="leaves out overhead_share, which takes minutes")
    parser.add_argument("--only-small", action="store_true", help="nothing else")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(threads=1), "get_rps": {}, "get_p50_ms": {}, "get_p99_ms": {}}
    for proxy, env in {}.items() if options.only_small else PROXIES.items():
        with _service(env) as http:
            task = _completed(http, _continue(http, 30.0 - PROMPT_S))
            if not env:
                results |= _measure_tasks(http, options.rounds)
            for clients in CLIENTS:
                load = asyncio.run(get_load(f"{http.base_url}/v1/tasks/{task['id']}", clients, options.load_s))
                for key, value in (("get_rps", load.rps), ("get_p50_ms", load.p50_ms), ("get_p99_ms", load.p99_ms)):
                    results[key].setdefault(proxy, {})[str(clients)] = round(value, 1)
                print(f"GET, {proxy}, {clients} clients: {load}", flush=True)
    if not options.skip_small:
        results |= _measure_overhead()
    print(json.dumps(results))


def _measure_tasks(http: httpx.Client, rounds: int) -> dict[str, Any]:
    """Medians; a round warms up and is not counted."""
    first_s = [_first_audio_s(http) for _ in range(rounds + 1)][1:]
    finish_s = [_finish_s(http) for _ in range(rounds + 1)][1:]
    upload_s = [_upload_s(http) for _ in range(rounds + 1)][1:]
    results = {"first_audio_s": first_s, "finish_s": finish_s, "upload_30mb_s": upload_s}
    for name, values in results.items():
        print(f"{name}: {[round(value, 3) for value in values]}", flush=True)
    return {name: round(median(values), 3) for name, values in results.items()}


def _first_audio_s(http: httpx.Client) -> float:
    since_s = perf_counter()
    task = _continue(http, 24.0)
    with http.stream("GET", f"{task['links']['self']}/audio", params={"live": 1}) as answer:
        answer.raise_for_status()
        seen_bytes = 0
        for chunk in answer.iter_bytes():
            if any(chunk[max(0, WAV_HEADER_BYTES - seen_bytes) :]):
                return perf_counter() - since_s
            seen_bytes += len(chunk)
    raise AssertionError("the live stream was silent")


def _finish_s(http: httpx.Client) -> float:
    """By the service's own clock: rendering of the last frames, and all that comes after it."""
    task = _completed(http, _continue(http, 30.0 - PROMPT_S))
    rendering_s = http.get(f"/tasks/{task['id']}").json()["rendering_s"]
    return float(rendering_s + task["timings"]["encoding_s"])


def _upload_s(http: httpx.Client) -> float:
    """30 MB: about three minutes in stereo."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 30_000_000 // 4)).astype(np.float32)
    wav = encode_wav(Clip(samples, 44_100))
    since_s = perf_counter()
    task = _post(http, wav, {"length": {"seconds": 1}})
    uploaded_s = perf_counter() - since_s
    _completed(http, task)
    return uploaded_s


def _measure_overhead() -> dict[str, Any]:
    """Tasks of 8 s of new music, between two runs of the same requests by the engine in this process."""
    checkpoint = small_shape()
    before_s = _engine_s(checkpoint)
    with _service({}, small=checkpoint) as http:
        timed = [_wall_and_decode_s(http) for _ in range(4)][1:]
    alone_s = median([*before_s, *_engine_s(checkpoint)])
    decode_s = median(decode_s for _, decode_s in timed)
    share = median(1 - decode_s / wall_s for wall_s, decode_s in timed)
    print(f"small shape: engine alone {alone_s:.2f} s; tasks, wall and decode {timed}")
    wall_s = median(wall_s for wall_s, _ in timed)
    seconds = {
        "engine_alone_s": round(alone_s, 2),
        "task_wall_s": round(wall_s, 2),
        "task_decode_s": round(decode_s, 2),
    }
    return {**seconds, "decode_vs_alone": round(decode_s / alone_s, 2), "overhead_share": round(share, 4)}


def _wall_and_decode_s(http: httpx.Client) -> tuple[float, float]:
    since_s = perf_counter()
    task = _completed(http, _continue(http, SMALL_SECONDS, model=SMALL))
    return round(perf_counter() - since_s, 3), task["timings"]["generating_s"]


def _engine_s(checkpoint: Path) -> list[float]:
    """Seconds of each of two requests by the engine itself, after one that warms up."""
    from gary.config import EngineConfig
    from gary.engine.batching import BatchingEngine
    from gary.engine.request import GenerationRequest

    config = EngineConfig(device="cpu", threads=2, hub_cache_dir=Path(".models").absolute(), hub_offline=True)
    engine = BatchingEngine.start(str(checkpoint.absolute()), config)
    prompt = tail(Clip(_loop()[None], 44_100), PROMPT_S)

    async def run(number: int) -> float:
        request = GenerationRequest(str(number), PROMPT_S + SMALL_SECONDS, seed=1, description="drums")
        since_s = perf_counter()
        async for _ in engine.generate(request, prompt):
            pass
        return perf_counter() - since_s

    try:
        return [asyncio.run(run(number)) for number in range(3)][1:]
    finally:
        engine.close()


def _continue(http: httpx.Client, seconds: float, **more: Any) -> dict[str, Any]:
    """A loop of some seconds, continued."""
    asked = {"length": {"seconds": seconds}, "prompt": {"length_s": PROMPT_S}, "seed": 1, "description": "drums"}
    return _post(http, encode_wav(Clip(_loop()[None], 44_100)), asked | more)


def _loop() -> np.ndarray[Any, Any]:
    """About 11 s, mono, 44.1 kHz."""
    return make_loop(174.0, 8, "drum-and-bass", rate_hz=44_100, seed=4)


def _post(http: httpx.Client, wav: bytes, asked: dict[str, Any]) -> dict[str, Any]:
    form = {"task": (None, json.dumps({"model": TINY, "source": {"upload": True}} | asked), "application/json")}
    answer = http.post("/v1/tasks", files=form | {"file": ("loop.wav", wav, "audio/wav")})
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    task: dict[str, Any] = answer.json()
    return task


def _completed(http: httpx.Client, task: dict[str, Any]) -> dict[str, Any]:
    *_, told = _told(http, task)
    assert told["state"] == "completed", told
    return told


def _told(http: httpx.Client, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The task at each of its events, until it is over."""
    with connect_sse(http, "GET", task["links"]["events"]) as events:
        for event in events.iter_sse():
            if event.data:  # else a ping
                yield event.json()


@contextmanager
def _service(env: dict[str, str], small: Path | None = None) -> Iterator[httpx.Client]:
    """A service of its own on files of its own."""
    root = Path(tempfile.mkdtemp(prefix="ga-", dir="/tmp"))  # a short name: Ray's sockets lie there
    port = free_port()
    try:
        with (
            local_service(_config(root, port, small), port, root / "serve.log", env | {"RAY_TMPDIR": str(root)}),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as http,
        ):
            yield http
    finally:
        shutil.rmtree(root)


def _config(root: Path, port: int, small: Path | None) -> Path:
    config = laptop_config("tiny")
    config["http_options"]["port"] = port
    application = config["applications"][0]
    args = application["args"]
    args["database"] = {"data_dir": str(root / "data")}
    if small is not None:
        args["models"].append({"name": SMALL, "checkpoint": str(small), "size": SMALL})
        args["engine"]["threads"] = 2
        application["deployments"].append({"name": f"MusicGen-{SMALL}", "ray_actor_options": {"num_cpus": 0.1}})
    path = root / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


if __name__ == "__main__":
    main()
