"""scripts/soak, so short that it shows whether it works, not whether the service endures."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.running import ROOT

SOAK_TIMEOUT_S = 240  # half of that on a machine that does nothing else


@pytest.fixture(scope="module")
def soak() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.soak", "0.4", "--clients", "4", "--seed", "7"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SOAK_TIMEOUT_S, check=False)


def test_nothing_is_lost_and_nothing_leaks(soak: subprocess.CompletedProcess[str]) -> None:
    """Under faults every accepted task ends, and it ends with status 0; its last line says so to programs."""
    assert soak.returncode == 0, soak.stdout[-8000:] + soak.stderr[-4000:]
    found = json.loads(soak.stdout.splitlines()[-1])
    assert found["completed"] > 0
    assert found["faults"] > 0
    assert found["accepted"] == found["completed"] + found["failed"] + found["cancelled"]
    assert (found["lost"], found["leaked_files"], found["leaked_processes"]) == (0, 0, 0)
    assert found["memory_growth"] > 0


def test_every_process_is_told_of(soak: subprocess.CompletedProcess[str]) -> None:
    """Each deployment, the database's server and Ray's own parts stand in the table with their memory."""
    table = soak.stdout.split("processes at rest")[1]
    names = {line.split("|")[1].strip() for line in table.splitlines() if line.count("|") > 6}
    deployments = {"Ingress", "Conductor", "MusicGen-tiny", "Fetcher", "Cropper", "Database"}
    assert names >= deployments | {"the database's server", "raylet", "gcs_server", "ServeController", "ProxyActor"}
