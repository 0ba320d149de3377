"""Tests of the engine on a GPU: collected where there is one, and said to be left out where there is none.

`GARY_GPU_TESTS_ON=cpu` runs them on the CPU, to see that they would run at all; what is captured there is run as it is.
"""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = os.environ.get("GARY_GPU_TESTS_ON", "cuda")
_RUN = DEVICE == "cpu" or torch.cuda.is_available()

collect_ignore_glob = [] if _RUN else ["test_*.py"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _RUN:
        terminalreporter.write_line("gpu tests: not run, no CUDA device here")
    elif DEVICE == "cpu":
        terminalreporter.write_line("gpu tests: run on the CPU, where nothing is captured")


@pytest.fixture(scope="session")
def device() -> str:
    return DEVICE
