"""`make` sets up once, says what it cannot do, and installs versions that fit what the packages ask for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT / "pyproject.toml", *sorted((ROOT / "plugins").glob("*/pyproject.toml"))]


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, env=environment, timeout=60
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that `make setup` depends on, and nothing else."""
    for path in (ROOT / "Makefile", ROOT / "constraints.txt", *PROJECTS):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


def fake_environment(clone: Path) -> Path:
    """A virtual environment whose Python writes down how it was called, instead of running."""
    python = clone / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >> {clone}/calls\n')
    python.chmod(0o755)
    return clone / "calls"


def test_an_old_python_is_named_with_the_way_out(clone: Path) -> None:
    old = clone / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make(clone, "setup", f"PYTHON={old}")
    assert done.returncode != 0
    assert f"error: no Python 3.11 or newer among {old}." in done.stderr
    assert "make setup PYTHON=" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_python_without_venv_is_named_with_the_way_out(clone: Path) -> None:
    bare = clone / "python3.12"
    bare.write_text('#!/bin/sh\ncase "$2" in *version_info*) exit 0;; *) exit 1;; esac\n')
    bare.chmod(0o755)
    done = make(clone, "setup", f"PYTHON={bare}")
    assert done.returncode != 0
    assert "cannot make virtual environments" in done.stderr and "python3-venv" in done.stderr


def test_setting_up_twice_installs_once(clone: Path) -> None:
    calls = fake_environment(clone)
    assert make(clone, "setup").returncode == 0
    first = calls.read_text()
    assert "-m pip install" in first and "constraints.txt" in first
    assert first.index("--editable .[dev]") < first.index("--editable plugins/mova-nano[train]")
    assert make(clone, "setup").returncode == 0
    assert calls.read_text() == first


def test_a_changed_requirement_installs_again(clone: Path) -> None:
    calls = fake_environment(clone)
    make(clone, "setup")
    before = calls.read_text()
    later = (clone / ".venv" / ".set-up").stat().st_mtime + 10
    os.utime(clone / "constraints.txt", (later, later))
    make(clone, "setup")
    assert calls.read_text().count("pip install") == before.count("pip install") + 1


def test_a_failed_installation_is_no_setup(clone: Path) -> None:
    fake_environment(clone)
    (clone / ".venv" / "bin" / "python").write_text('#!/bin/sh\n[ "$3" = --version ]\n')
    assert make(clone, "setup").returncode != 0
    assert not (clone / ".venv" / ".set-up").exists()


def test_a_question_may_hold_quotes(clone: Path) -> None:
    fake_environment(clone)
    mova = clone / ".venv" / "bin" / "mova"
    mova.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    mova.chmod(0o755)
    question = 'What\'s "this"; and `that`?'
    done = make(clone, "ask", "IMAGE=my picture.png", f"QUESTION={question}")
    assert f"<ask><my picture.png><{question}>" in done.stdout


def pinned_versions() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {_normal(name): version for name, version in pins}


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_each_direct_requirement_has_a_tested_version_that_fits(project: Path) -> None:
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    texts = [*table["dependencies"], *sum(table.get("optional-dependencies", {}).values(), [])]
    tested = pinned_versions()
    own = {tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"] for path in PROJECTS}
    wanted = [r for r in map(Requirement, texts) if _normal(r.name) not in own]
    assert texts
    untested = [str(r) for r in wanted if not r.specifier.contains(tested.get(_normal(r.name), "0"))]
    assert not untested, "constraints.txt has no version that fits"


def test_constraints_are_of_this_machine_in_no_way() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"nvidia|cuda-|file:|@|^-e", text, re.MULTILINE | re.IGNORECASE)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
