"""What the operator's pages name is there: files, scripts, settings."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from gary.config import AppArgs

ROOT = Path(__file__).parents[2]
PAGES = ["docs/operations.md", "docs/deployment.md"]
NAMED_FILES = re.compile(r"\b(?:scripts|deploy|tests|docs)/[\w./-]*\w|\bcluster[\w.]*\.yaml|\bserve_config[\w.]*\.yaml")
MADE_LATER = "deploy/.secrets"


def _has(path: str) -> bool:
    """Whether a dotted path such as `limits.body_bytes` is a setting."""
    model: Any = AppArgs
    for name in path.split("."):
        model = next((part for part in (model, *get_args(model)) if isinstance(part, type)), None)
        if model is None or not issubclass(model, BaseModel) or name not in model.model_fields:
            return False
        model = model.model_fields[name].annotation
    return True


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    """So that no command of these pages fails for a name."""
    named = {name for name in NAMED_FILES.findall((ROOT / page).read_text()) if not name.startswith(MADE_LATER)}
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_settings_that_are_named_exist(page: str) -> None:
    """Every `room.setting` of the configuration's rooms, and what hangs below `args`."""
    rooms = "|".join(AppArgs.model_fields)
    named = re.findall(rf"`(?:args\.)?((?:{rooms})(?:\.\w+)+)`", (ROOT / page).read_text())
    assert named
    assert [name for name in named if not _has(name)] == []


def test_the_check_of_settings_can_fail() -> None:
    assert _has("limits.body_bytes")
    assert not _has("limits.body")
    assert not _has("limits.body_bytes.more")
