"""Built wheels work outside the tree: an empty environment lists the experts that were installed into it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))


def build(projects: list[Path], to: Path) -> list[Path]:
    """Wheels of projects, made by their own build backends."""
    for project in projects:
        done = subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", to, project],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return sorted(to.glob("*.whl"))


def empty_environment(folder: Path) -> Path:
    """An environment without anything of this project, but with the libraries that the tests run with.

    The libraries are linked, not installed: a second PyTorch would take minutes and gigabytes.
    """
    venv.create(folder / "env", with_pip=False)
    linked = folder / "linked"
    linked.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.lower().lstrip("_").startswith(("mova", "editable")) and path.suffix != ".pth":
            (linked / path.name).symlink_to(path)
    python = folder / "env" / "bin" / "python"
    site = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    (Path(site.strip()) / "linked.pth").write_text(f"{linked}\n")
    return python


def listed_from_wheels(projects: list[Path], folder: Path) -> dict[str, str]:
    """Statuses by id, as `mova experts list` says after installing the projects' wheels."""
    wheels = build([ROOT, *projects], folder / "wheels")
    python = empty_environment(folder)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", *wheels], check=True, capture_output=True)
    (folder / "cards").mkdir()
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [python.with_name("mova"), "experts", "list", "--json"]
    environment = own | {"MOVA_CARD_DIR": str(folder / "cards")}
    out = subprocess.check_output(command, text=True, cwd=folder, env=environment)
    return {row["id"]: row["status"] for row in json.loads(out)}


def experts_of(projects: list[Path]) -> set[str]:
    """Ids of the experts that projects bring."""
    tables = [tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8")) for path in projects]
    return {id for t in tables for id in t["project"].get("entry-points", {}).get("mova.experts", {})}


def test_a_plugin_is_listed_from_its_wheel(tmp_path: Path) -> None:
    project = ROOT / "plugins" / "mova-expert-sam"
    assert listed_from_wheels([project], tmp_path) == {"sam": "ok"}


@pytest.mark.slow
def test_every_plugin_is_listed_from_its_wheel(tmp_path: Path) -> None:
    found = listed_from_wheels(PLUGINS, tmp_path)
    assert found == dict.fromkeys(experts_of(PLUGINS), "ok")
    assert len(found) >= 14
