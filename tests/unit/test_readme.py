"""The README tells the truth about what is where."""

import re
import subprocess

from tests.running import ROOT

README = (ROOT / "README.md").read_text()


def test_the_file_tree_is_true() -> None:
    """Every file and directory of the tree exists, and every directory of the repository stands in it."""
    tree = README.split("## Where things are")[1].split("```")[1]
    parent = ""
    named = set()
    for line in tree.strip().splitlines():
        name = line.split()[0]
        path = f"{parent}{name}" if line.startswith(" ") else name
        parent = name if name.endswith("/") and not line.startswith(" ") else parent
        assert (ROOT / path).exists(), path
        named.add(path.split("/")[0])
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    directories = {path.split("/")[0] for path in tracked.splitlines() if "/" in path and not path.startswith(".")}
    assert directories - {"deploy"} <= named


def test_links_and_commands_exist() -> None:
    """Every relative link and every script that is named is there."""
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links), links
    scripts = set(re.findall(r"scripts/(\w+)", README))
    assert scripts
    assert all((ROOT / "scripts" / script).is_file() for script in scripts), scripts


def test_parts_of_the_tests_are_named() -> None:
    """`scripts/test NAME` works for each part that the README names, and names them all."""
    parts = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    line = next(line for line in README.splitlines() if line.startswith("scripts/test unit"))
    assert parts == set(re.findall(r"\w+", line.split("one part:")[1]))
