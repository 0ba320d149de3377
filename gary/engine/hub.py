"""Where this process keeps what it fetches from the model hub, and whether it may ask the hub at all.

The hub's libraries read the environment once, when they are imported: so this is settled before, and never changed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gary.errors import CheckpointError


def use_hub(cache_dir: Path | None, offline: bool) -> None:
    """Settles the hub home (`HF_HOME`) of this process; call it before anything of the hub is imported.

    Args:
        cache_dir: the hub home, holding `hub/models--*`; None leaves the usual one.
        offline: serve from there alone; False leaves what the environment says.

    Raises:
        CheckpointError: the hub's libraries are imported already, with another setting.
    """
    wanted: dict[str, str] = {}
    if cache_dir is not None:
        home = cache_dir.resolve()
        wanted = {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub")}
    if offline:
        wanted["HF_HUB_OFFLINE"] = "1"
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        _check_settled(wanted, constants)
    os.environ.update(wanted)


def _check_settled(wanted: dict[str, str], constants: object) -> None:
    """Compares with what the imported library has read: its constants bear the names of the variables."""
    for name, value in wanted.items():
        settled = getattr(constants, name)
        agrees = settled is True if name == "HF_HUB_OFFLINE" else Path(settled).resolve() == Path(value)
        if not agrees:
            raise CheckpointError(f"{name} cannot become {value}: this process already uses {settled}")
