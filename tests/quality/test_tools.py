"""The tree passes its own checks: lint, types, and the import rules of the architecture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command", [("ruff", "check", "."), ("mypy",), ("lint-imports",)], ids=lambda c: c[0]
)
def test_tree_passes(command: tuple[str, ...]) -> None:
    name, *arguments = command
    done = subprocess.run([BIN / name, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
