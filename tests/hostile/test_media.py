"""Files of strangers through the real ffmpeg: served or refused with a code; nothing read, nobody asked or left."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gary.audio.files import SAMPLE_MAX, decode
from gary.config import Limits
from gary.errors import ClientError
from tests.api.conftest import Api
from tests.hostile import media_files
from tests.hostile.conftest import Ledger, Outside, Watch, descendants
from tests.hostile.media_files import OK

Case = tuple[str, bytes, set[str]]
WORST_S = 30.0
WORST_MB = 2048.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return media_files.whole_files(tmp_path_factory.mktemp("whole"))


async def _check(cases: Iterator[Case], group: str, ledger: Ledger) -> None:
    """Decodes each; asserts about all of them at the end, so that the table is whole."""
    wrong: dict[str, tuple[str, float, float]] = {}
    for name, data, expected in cases:
        with Watch(frozenset(descendants())) as watch:
            answer = await _answer(data)
        ledger.file(group, name, answer, watch.duration_s, watch.peak_mb)
        if answer not in expected or watch.duration_s > WORST_S or watch.peak_mb > WORST_MB:
            wrong[name] = (answer, watch.duration_s, watch.peak_mb)
    assert wrong == {}


async def _answer(data: bytes) -> str:
    try:
        clip = await decode(data, Limits())
    except ClientError as error:
        return error.code if "/" not in error.message else f"!{error.message}"
    return OK if np.abs(clip.samples).max() <= SAMPLE_MAX else "!samples out of range"


async def test_every_container_is_accepted(whole: dict[str, bytes], ledger: Ledger, nothing_left: None) -> None:
    """What is damaged below is served when it is whole, so the damage is what is refused."""
    await _check(((f"{name}: whole", data, {OK}) for name, data in whole.items()), "whole", ledger)


async def test_cut_and_damaged(whole: dict[str, bytes], outside: Outside, ledger: Ledger, nothing_left: None) -> None:
    """Broken off or damaged files give what there is, or are the client's fault."""
    await _check(media_files.cut_and_damaged(whole), "damaged", ledger)


async def test_headers_that_lie(whole: dict[str, bytes], outside: Outside, ledger: Ledger, nothing_left: None) -> None:
    """What a header claims costs nothing: rates, channels, sizes and tables beyond reason are refused or ignored."""
    await _check(media_files.headers_that_lie(whole), "lies", ledger)


async def test_bombs(tmp_path: Path, outside: Outside, ledger: Ledger, nothing_left: None) -> None:
    """Little that becomes much is stopped at the limit of decoded bytes."""
    await _check(media_files.bombs(tmp_path), "bombs", ledger)


async def test_what_is_no_audio(
    whole: dict[str, bytes], tmp_path: Path, outside: Outside, ledger: Ledger, nothing_left: None
) -> None:
    """Other kinds of files, and files of two kinds, are refused unless they are audio from the start."""
    await _check(media_files.no_audio(tmp_path, whole), "no audio", ledger)


@pytest.fixture
def canaries(tmp_path: Path, outside: Outside) -> list[str]:
    """A sound file and a text that must not turn up, and a host that must not be asked."""
    soundfile.write(tmp_path / "canary.wav", np.full(44_100, 0.77, np.float32), 44_100)
    (tmp_path / "canary.txt").write_text("secret")
    sound, text = tmp_path / "canary.wav", tmp_path / "canary.txt"
    return [
        f"file://{sound}",
        str(sound),
        f"http://127.0.0.1:{outside.port}/a.wav",
        f"udp://127.0.0.1:{outside.port}",
        f"tcp://127.0.0.1:{outside.port}",
        f"subfile,,start,0,end,0,,:{text}",
        f"crypto+file://{text}",
        "data:,x",
    ]


async def test_playlists_dressed_as_audio(canaries: list[str], ledger: Ledger, nothing_left: None) -> None:
    """A playlist, plain or behind an audio file's first bytes, is refused; what it names is neither read nor asked."""
    await _check(media_files.playlists(canaries), "playlists", ledger)


async def test_a_movie_that_names_another_file(
    whole: dict[str, bytes], canaries: list[str], ledger: Ledger, nothing_left: None
) -> None:
    """A movie whose samples lie in another file gives none of them."""
    path = canaries[1]
    moved = media_files.mp4_that_names_a_file(whole["m4a"], path)
    assert path.encode() in moved
    await _check(iter([("mp4: names another file", moved, {"not_audio", "too_short"})]), "lies", ledger)


async def test_the_api_answers_them_all(
    api: Api, whole: dict[str, bytes], tmp_path: Path, canaries: list[str], ledger: Ledger, nothing_left: None
) -> None:
    """Over HTTP each file is an answer below 500 that says what was wrong, and names nothing of this machine."""
    task_id = (await api.generate()).json()["task_id"]
    cases = [*media_files.headers_that_lie(whole), *media_files.no_audio(tmp_path, whole)]
    cases += list(media_files.playlists(canaries))[::4]
    for name, data, expected in cases:
        audio = base64.b64encode(data).decode()
        bodies = {
            "/crop-audio": {"audioData": audio, "start": 0, "end": 0.5},
            "/continue": {"task_id": task_id, "audio": audio, "prompt_duration": 1},
        }
        for path, body in bodies.items():
            with Watch(frozenset(descendants())) as watch:
                answer = await api.http.post(path, json=body)
            status = answer.status_code
            marked = "!" if status >= 500 else ""
            ledger.file(path[1:9], name, f"{marked}{status}", watch.duration_s, watch.peak_mb)
            assert status < 500, (name, path, answer.text)
            assert status < 400 or (answer.json()["error"] and str(tmp_path) not in answer.text)
            assert OK in expected or status >= 400, (name, path)
