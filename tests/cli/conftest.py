"""What tests of installing share: toys, a uv that only writes down its calls, environments of their own."""

from __future__ import annotations

import os
import subprocess
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


def _write_wheel(folder: Path, id: str, card: str, version: str = "1.0") -> Path:
    """A distribution that brings one expert, as a wheel."""
    package = f"mova_expert_{id.replace('-', '_')}"
    info = f"{package}-{version}.dist-info"
    files = {
        f"{package}/__init__.py": "",
        f"{package}/code.py": "class Expert: ...\n",
        f"{package}/expert.toml": card.replace("toy_package", package),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: mova-expert-{id}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: toy\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[mova.experts]\n{id} = {package}:expert.toml\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel


BACKEND = """
import pathlib, shutil

def build_wheel(folder, settings=None, metadata=None):
    wheel = next(pathlib.Path.cwd().glob("*.whl"))
    shutil.copy(wheel, folder)
    return wheel.name
"""


def _write_project(folder: Path, id: str, card: str, version: str = "1.0") -> Path:
    """The same as a folder, which is built by a backend of its own and so needs nothing else."""
    _write_wheel(folder, id, card, version)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "mova-expert-{id}"\nversion = "{version}"\n'
    )
    return folder


@pytest.fixture
def write_wheel() -> Callable[..., Path]:
    """Makes a wheel: `write_wheel(folder, "id", card)`."""
    return _write_wheel


@pytest.fixture
def write_project() -> Callable[..., Path]:
    """Makes a folder that can be installed: `write_project(folder, "id", card)`."""
    return _write_project


@dataclass(frozen=True)
class FakeUv:
    """A uv that writes down its arguments and then does what a test wants it to."""

    folder: Path

    @property
    def calls(self) -> list[list[str]]:
        log = self.folder / "calls"
        return [line.split("\t")[:-1] for line in log.read_text().splitlines()] if log.exists() else []

    def then(self, shell: str) -> None:
        (self.folder / "then").write_text(shell)


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeUv:
    folder = tmp_path / "uv-bin"
    folder.mkdir()
    script = folder / "uv"
    script.write_text(
        f'#!/bin/sh\n{{ for word in "$@"; do printf "%s\\t" "$word"; done; echo; }} >> {folder}/calls\n'
        f"[ ! -f {folder}/then ] || . {folder}/then\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("MOVA_OFFLINE", raising=False)
    return FakeUv(folder)


BROKEN = "[mova.experts]\ntoy-broken = mova_expert_toy_broken:none.toml\n[mova.hooks\nnot an entry point\n"


@dataclass(frozen=True)
class Environment:
    """An environment that sees the packages of the running one, and has its own to install into."""

    root: Path

    @property
    def packages(self) -> Path:
        return next(self.root.glob("lib/python*/site-packages"))

    def add_broken_plugins(self) -> None:
        """Two whose entry points cannot be read, one whose card is not there, one without any metadata."""
        for name, metadata, points in (
            ("toy_bytes", b"Name: toy-bytes\nVersion: 1\n", b"[mova.experts]\n\xff = \xff:x.toml\n"),
            ("toy_points", b"Name: toy-points\nVersion: 1\n", BROKEN.encode()),
            ("toy_none", b"Name: toy-none\nVersion: 1\n", b"[mova.experts]\ntoy-none = toy_none:x.toml\n"),
            ("toy_headless", b"", b"[mova.hooks]\ntoy-headless = toy_headless\n"),
        ):
            info = self.packages / f"{name}-1.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_bytes(metadata)
            (info / "entry_points.txt").write_bytes(points)

    def mova(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; from mova_core.cli.main import main; sys.exit(main(sys.argv[1:]))"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
        return subprocess.run(
            [self.root / "bin" / "python", "-c", code, *arguments],
            env=kept | {"PATH": "/usr/bin:/bin"} | settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    import pip

    made = Environment(tmp_path / "environment")
    venv.create(made.root, with_pip=False, symlinks=True)
    here = Path(pip.__file__).parents[1]
    (made.packages / "here.pth").write_text(f"import site; site.addsitedir({str(here)!r})\n")
    return made
