"""Imports that wait for the first use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Optional

import pytest

from gary.engine.deferred import deferred

_BAND = """
PLAYED = []
class Player:
    name = "a player"
    def play(self, *, loud=False):
        return "LA" if loud else "la"
def play():
    return "la la"
"""


@pytest.fixture
def band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `band` with a module `band.brass` below it, and a package `hall` that takes names of both."""
    for package in ("band", "hall"):
        (tmp_path / package).mkdir()
    (tmp_path / "band/__init__.py").write_text(_BAND)
    (tmp_path / "band/brass.py").write_text("def blow(): return 'toot'\n")
    (tmp_path / "hall/__init__.py").write_text("from . import stage\n")
    (tmp_path / "hall/stage.py").write_text("import band\nfrom band import Player, brass, play\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("band", "band.brass", "hall", "hall.stage"):
        sys.modules.pop(name, None)


def imported(*names: str) -> Any:
    """Of a module that is imported while these are deferred."""
    with deferred(names):
        return import_module("hall.stage")


def test_what_is_not_used_is_not_imported(band: Path) -> None:
    stage = imported("band")
    assert "band" not in sys.modules
    assert "imported when it is used" in repr(stage.play)


def test_the_first_use_gets_the_real_one(band: Path) -> None:
    stage = imported("band")
    assert stage.play() == "la la"
    assert Path(sys.modules["band"].__file__ or "") == band / "band/__init__.py"
    assert stage.Player().play(loud=True) == "LA"
    assert stage.Player.name == "a player"
    assert stage.band.play() == "la la"


def test_a_module_below_is_had_too(band: Path) -> None:
    assert imported("band").brass.blow() == "toot"


def test_it_may_be_used_while_others_are_deferred(band: Path) -> None:
    with deferred(["band", "elsewhere"]):
        stage: Any = import_module("hall.stage")
        assert stage.play() == "la la"
        assert import_module("band").play is not stage.play, "the module itself"
        assert import_module("band").play() == "la la"


def test_only_a_module_below_can_wait(band: Path) -> None:
    stage = imported("band.brass")
    assert "band" in sys.modules
    assert "band.brass" not in sys.modules
    assert not hasattr(sys.modules["band"], "brass"), "a stand-in is left in its package"
    assert stage.brass.blow() == "toot"


def test_afterwards_an_import_gets_the_real_one(band: Path) -> None:
    imported("band")
    assert import_module("band").Player.name == "a player"


def test_what_is_imported_already_stays(band: Path) -> None:
    real = import_module("band")
    assert imported("band").band is real


def test_a_failing_import_leaves_nothing(band: Path) -> None:
    (band / "hall/stage.py").write_text("import band\nraise ValueError('no stage')\n")
    before = list(sys.meta_path)
    with pytest.raises(ValueError, match="no stage"):
        imported("band")
    assert sys.meta_path == before
    assert "band" not in sys.modules


def test_other_threads_import_as_ever(band: Path) -> None:
    with deferred(["band"]), ThreadPoolExecutor(1) as other:
        assert other.submit(import_module, "band").result().play() == "la la"


def test_a_class_can_be_derived_and_a_promise_annotated(band: Path) -> None:
    stage = imported("band")
    player: Any = stage.Player
    assert repr(Optional[player])  # noqa: UP045  as the libraries write it
    assert "band" not in sys.modules, "an annotation is no use"

    class Soloist(player):  # type: ignore[misc]
        pass

    assert Soloist().play() == "la"
    assert issubclass(Soloist, sys.modules["band"].Player)


def test_a_name_that_is_not_there_is_missed_when_it_is_used(band: Path) -> None:
    (band / "hall/stage.py").write_text("from band import drummer\n")
    stage = imported("band")
    with pytest.raises(ModuleNotFoundError, match=r"band\.drummer"):
        stage.drummer()


def test_an_instance_is_known(band: Path) -> None:
    stage = imported("band")
    assert not isinstance(1, stage.Player)
    assert isinstance(sys.modules["band"].Player(), stage.Player)


@pytest.mark.parametrize("how", ["band.loudly", "band.loudly(None, 2)", "band.loudly(times=2)"])
def test_a_decorator_is_done_without(band: Path, how: str) -> None:
    """With options or without; one that is not named is used as ever."""
    with (band / "band/__init__.py").open("a") as more:
        more.write("def loudly(*options, **more): raise ValueError('that was loud')\n")
    stage = band / "hall/stage.py"
    stage.write_text(f"import band\n@{how}\ndef whisper(): return 'psst'\n")
    with deferred(["band"], without=["band.loudly"]):
        assert import_module("hall.stage").whisper() == "psst"
    assert "band" not in sys.modules
    for name in ("hall", "hall.stage"):
        del sys.modules[name]
    with pytest.raises(ValueError, match="that was loud"):
        imported("band")
