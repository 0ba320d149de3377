"""Today's way of serving, made again to be measured against: one worker, one job at a time, the model loaded for each.

What it keeps of the original: jobs wait in a queue; a worker takes one, forks a work horse for it (as rq does), and
takes no other until that one has ended; the horse loads the model by audiocraft's `get_pretrained`, in whatever
precision audiocraft chooses, and runs audiocraft's own guided loop with the parameters of `/generate`; each step writes
its progress; the answer, made as loud as the original makes it, goes as base64 into the task's document.

Where the original is not known, or its parts are not here, this is the kinder choice:

    queue, progress   in the same embedded server as the documents, in the place of Redis; progress is not waited for
    imports           made once, in the worker, so that no job pays for them
    HTTP              none: clients write and read the documents themselves
    fetching          one plain GET of a WAV, decoded in memory; no yt-dlp, no ffmpeg, no files
    tempo             by our own estimate, so that both sides make equally long answers

What it knows of us is that estimate, the embedded server's address, and where the hub's files lie.

    python -m benchmarks.incumbent_worker URI THREADS     says "ready" and works until it is killed
"""

from __future__ import annotations

import argparse
import base64
import io
import multiprocessing
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import httpx
import soundfile
import torch
from bson import ObjectId
from pymongo import MongoClient, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database

from gary.audio.clip import Clip
from gary.audio.tempo import choose_bars, estimate_tempo
from gary.audio.tempo import warm_up as warm_up_tempo
from gary.engine.hub import use_hub
from gary.engine.imports import known_noise_silenced

DATABASE = "incumbent"
READY = "ready"
DESCRIPTION = "drums, percussion"
TOP_K, CFG_COEF, TEMPERATURE = 150, 5.0, 1.0
LOUDNESS_HEADROOM_DB = 14.0
_LOOK_S = 0.01  # Redis would wake the worker at once

Document = dict[str, Any]


def work(uri: str, threads: int) -> None:
    """Takes jobs one at a time, for ever."""
    with MongoClient[Document](uri) as client:
        queue = client[DATABASE]["queue"]
        while True:
            job = queue.find_one_and_delete({}, sort=[("_id", 1)])
            if job is None:
                sleep(_LOOK_S)
            else:
                _run(client[DATABASE]["tasks"], job["task_id"], uri, threads)


def _run(tasks: Collection[Document], task_id: ObjectId, uri: str, threads: int) -> None:
    """A horse's whole life; a job whose horse did not come back has failed."""
    horse = multiprocessing.get_context("fork").Process(target=make_answer, args=(uri, task_id, threads))
    horse.start()
    horse.join()
    if horse.exitcode != 0:
        told = {"status": "failed", "error": f"the work horse ended with status {horse.exitcode}"}
        tasks.update_one({"_id": task_id}, {"$set": told})


def make_answer(uri: str, task_id: ObjectId, threads: int) -> None:
    """One job from its document to the answer in it; runs in a process of its own, with a connection of its own."""
    torch.set_num_threads(threads)
    with MongoClient[Document](uri) as client:
        database = client[DATABASE]
        task = database["tasks"].find_one({"_id": task_id})
        assert task is not None, "a job of no task"
        began_at, began_s = datetime.now(UTC), perf_counter()
        clip = _fetch(task["youtube_url"], task["timestamp"])
        length_s = _length_s(clip, task["duration"])
        model = _load(task["model"], _Progress(database, task_id))
        loaded_s = perf_counter()
        audio = _continue(model, clip, task["promptLength"], length_s)  # [C, N]
        made_s = perf_counter()
        told = {
            "status": "completed",
            "audio": base64.b64encode(_wav(audio, model.sample_rate)).decode(),
            "began_at": began_at,
            "ended_at": datetime.now(UTC),
            "loading_s": loaded_s - began_s,
            "generating_s": made_s - loaded_s,
        }
        database["tasks"].update_one({"_id": task_id}, {"$set": told})


def _fetch(url: str, start_s: float) -> Clip:
    """What plays at `url` from `start_s` on."""
    answer = httpx.get(url)
    answer.raise_for_status()
    samples, rate_hz = soundfile.read(io.BytesIO(answer.content), dtype="float32", always_2d=True)  # [N, C]
    clip = Clip(samples.T, rate_hz)
    return clip.slice_s(start_s, clip.duration_s)


def _length_s(clip: Clip, duration: str) -> float:
    """Of the answer, prompt included: whole bars within a range such as 16-18."""
    min_s, max_s = map(float, duration.split("-"))
    tempo = estimate_tempo(clip)
    return max_s if tempo is None else choose_bars(tempo.bpm, min_s, max_s).length_s


def _load(name: str, progress: _Progress) -> Any:
    """The model, from disk."""
    from audiocraft.models.musicgen import MusicGen

    with known_noise_silenced():
        model = MusicGen.get_pretrained(name, device="cpu")
    model.set_custom_progress_callback(progress)
    return model


def _continue(model: Any, clip: Clip, prompt_s: float, length_s: float) -> torch.Tensor:
    """The prompt and what follows it, [C, N]."""
    prompt = torch.tensor(clip.slice_s(0.0, prompt_s).mono().samples)  # [1, N]
    model.set_generation_params(top_k=TOP_K, cfg_coef=CFG_COEF, temperature=TEMPERATURE, duration=length_s)
    made: torch.Tensor = model.generate_continuation(prompt, clip.rate_hz, [DESCRIPTION], progress=True)  # [1, C, N]
    return made[0]


def _wav(audio: torch.Tensor, rate_hz: int) -> bytes:
    """16-bit WAV of [C, N], as audiocraft's `audio_write` has it with the strategy "loudness"."""
    from audiocraft.data.audio_utils import normalize_audio

    loud = normalize_audio(
        audio,
        strategy="loudness",
        loudness_headroom_db=LOUDNESS_HEADROOM_DB,
        loudness_compressor=True,
        sample_rate=rate_hz,
    )
    file = io.BytesIO()
    soundfile.write(file, loud.numpy().T, rate_hz, format="WAV", subtype="PCM_16")
    return file.getvalue()


class _Progress:
    """audiocraft's callback: per cent, written at each step. Not waited for: a word to Redis costs next to nothing."""

    def __init__(self, database: Database[Document], task_id: ObjectId) -> None:
        self._progress = database["progress"].with_options(write_concern=WriteConcern(w=0))
        self._task_id = task_id

    def __call__(self, steps: int, steps_in_all: int) -> None:
        percent = 100.0 * steps / steps_in_all
        self._progress.update_one({"_id": self._task_id}, {"$set": {"progress": percent}}, upsert=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("uri", help="of the database")
    parser.add_argument("threads", type=int, help="torch's, of each work horse")
    options = parser.parse_args()
    use_hub(Path(".models"), offline=True)
    with known_noise_silenced():
        import audiocraft.models.musicgen  # noqa: F401  the horses inherit it
    warm_up_tempo()
    print(READY, flush=True)
    work(options.uri, options.threads)


if __name__ == "__main__":
    main()
