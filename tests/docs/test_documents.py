"""What the documents say to type works.

Fenced blocks of the README and of `docs/` are run in order, each document in a folder of its own:

- `console`: lines that begin with "$ " are commands, the others show what they print;
- `python`: a script;
- any block with a path after its language, such as "toml cards/my.toml": a file, written before what follows.

A block below `<!-- not run: reason -->` is not run. What it says to type is checked all the same.
A block below `<!-- from: path -->` is part of that file, word for word.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RUN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
READ = [
    *RUN,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "plugins").glob("*/README.md")),
]

FENCE = re.compile(
    r"^(?P<above>(?:<!--[^\n]*-->\n)*)```(?P<language>\w+)(?: (?P<path>\S+))?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


STILL = re.compile("<!-- (not run|from):")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is to become, its text, and whether it may run."""

    language: str
    path: str
    text: str
    runs: bool

    @property
    def commands(self) -> list[str]:
        """What a console block says to type; a line that ends in a backslash goes on in the next."""
        joined = self.text.replace("\\\n", " ") if self.language == "console" else ""
        return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]

    @property
    def calls(self) -> list[list[str]]:
        """How to run the block, call by call."""
        if self.path or not self.runs:
            return []
        if self.language == "python":
            return [[sys.executable, "-c", self.text]]
        return [["bash", "-euo", "pipefail", "-c", command] for command in self.commands]


def blocks(document: Path) -> list[Block]:
    found = FENCE.finditer(document.read_text(encoding="utf-8"))
    return [
        Block(match["language"], match["path"] or "", match["text"], not STILL.search(match["above"]))
        for match in found
    ]


def typed(document: Path, program: str) -> list[str]:
    """Every command of a program, from console blocks and from code spans that are whole commands."""
    spans = re.findall(rf"`({program} [^`\n]+)`", document.read_text(encoding="utf-8"))
    lines = [command for block in blocks(document) for command in block.commands]
    found = [re.search(rf"(?:^|[\s=]){program} .*", line) for line in lines]
    return [*spans, *(match[0].strip() for match in found if match)]


@pytest.mark.parametrize("document", READ, ids=str)
def test_quoted_code_stands_in_its_file(document: Path) -> None:
    for match in FENCE.finditer(document.read_text(encoding="utf-8")):
        if quoted := re.search(r"<!-- from: (\S+) -->", match["above"]):
            assert match["text"] in (ROOT / quoted[1]).read_text(encoding="utf-8"), match["text"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Programs of the environment under test, with a `make` that takes it for set up."""
    tools = tmp_path / "tools"
    tools.mkdir()
    venv = Path(sys.executable).parent.parent
    fixed = f"make -o {shlex.quote(str(venv / '.set-up'))} VENV={shlex.quote(str(venv))}"
    (tools / "make").write_text(f'#!/bin/sh\nPATH=${{PATH#*:}} exec {fixed} "$@"\n')
    (tools / "make").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return kept | {"PATH": f"{tools}:{venv / 'bin'}:{kept['PATH']}", "TERM": "dumb"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like the repository to a reader's commands."""
    place = tmp_path / "here"
    place.mkdir()
    for name in ("Makefile", "constraints.txt", "examples", "plugins", "pyproject.toml"):
        (place / name).symlink_to(ROOT / name)
    return place


@pytest.mark.parametrize("document", RUN, ids=lambda path: path.name)
def test_blocks_run(document: Path, folder: Path, environment: dict[str, str]) -> None:
    for block in blocks(document):
        if block.path:
            target = folder / block.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        for call in block.calls:
            done = subprocess.run(
                call,
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=300,
            )
            assert done.returncode == 0, f"{call[-1]}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("document", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(document: Path, mova: Callable[..., Any]) -> None:
    for command in typed(document, "mova"):
        words = shlex.split(command)[1:]
        names = [word for word in words if not word.startswith("-")][:1]
        if names and "COMMAND [ARGS]" in mova(*names, "--help").out:
            names = [word for word in words if not word.startswith("-")][:2]
        shown = mova(*names, "--help")
        assert shown.code == 0, f"{command}\n{shown.err}"
        unknown = [
            word for word in words if word.startswith("--") and word.partition("=")[0] not in shown.out
        ]
        assert not unknown, command


@pytest.mark.parametrize("document", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_exist(document: Path, environment: dict[str, str]) -> None:
    for command in typed(document, "make"):
        call = ["bash", "-c", command.replace("make ", "make --dry-run ", 1)]
        done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("document", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_blocks_that_are_examples_are_the_examples() -> None:
    named = [block for document in RUN for block in blocks(document) if block.path]
    copies = [block for block in named if (ROOT / "examples" / block.path).is_file()]
    assert copies
    for block in copies:
        assert block.text == (ROOT / "examples" / block.path).read_text(encoding="utf-8"), block.path
