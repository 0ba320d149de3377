"""Reads a config file, has the machine looked at, and says what was found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer
import yaml
from pydantic import ValidationError

from gary.config import AppArgs
from gary.doctor.checks import GPU_QUERY
from gary.doctor.examination import HTTP_PORT, examine
from gary.doctor.finding import Finding, Verdict
from gary.doctor.machine import Machine
from gary.errors import InvalidInput

PRODUCTION, LAPTOP = Path("serve_config.yaml"), Path("serve_config.dev.yaml")


def run(machine: Machine, config: Path | None = None, as_program: bool = False) -> int:
    """Looks and reports on standard output.

    Args:
        config: a Serve config file; None: production's where there is a GPU, else a laptop's.
        as_program: one line of JSON for it, instead of lines for people.

    Returns:
        The exit code: 0, or 1 where something will not work.

    Raises:
        InvalidInput: there is no such file, or it is none of ours.
    """
    chosen = config or _usual(machine)
    args, port = _read(chosen)
    findings: list[Finding] = []
    if not as_program:
        typer.echo(f"for {chosen}\n")
    for finding in examine(machine, args, port):
        findings.append(finding)
        if not as_program:
            typer.echo(as_line(finding))
    if as_program:
        typer.echo(as_json(findings))
    return exit_code(findings)


def as_line(finding: Finding) -> str:
    """For people: the verdict, the subject, what is there, and below it what to do."""
    line = f"{finding.verdict:<4}  {finding.subject:<34}  {finding.found}"
    return f"{line}\n{'':40}-> {finding.advice}" if finding.advice else line


def as_json(findings: Sequence[Finding]) -> str:
    """For programs: {"ok": bool, "findings": [{"subject", "verdict", "found", "advice"}]}, on one line."""
    listed = [
        {"subject": f.subject, "verdict": f.verdict.value, "found": f.found, "advice": f.advice} for f in findings
    ]
    return json.dumps({"ok": exit_code(findings) == 0, "findings": listed})


def exit_code(findings: Sequence[Finding]) -> int:
    """1 where something will not work; warnings leave it 0."""
    return int(any(finding.verdict is Verdict.FAIL for finding in findings))


def _usual(machine: Machine) -> Path:
    has_gpu = bool(machine.run(GPU_QUERY))
    return PRODUCTION if has_gpu or not LAPTOP.is_file() else LAPTOP


def _read(path: Path) -> tuple[AppArgs, int]:
    """The application's arguments and the port of HTTP."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        (application,) = config["applications"]
        return AppArgs.model_validate(application["args"]), int(config.get("http_options", {}).get("port", HTTP_PORT))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", "bad_config") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        detail = error if isinstance(error, ValidationError) else "it is no Serve config file of this service"
        raise InvalidInput(f"{path}: {detail}", "bad_config") from error
