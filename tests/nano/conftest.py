"""What tests of the shipped model share: its pretrained parts, fetched once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

MOVA = Path(sys.executable).with_name("mova")


@pytest.fixture(scope="session", autouse=True)
def nano_parts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The parts of mova-nano in the user's cache (or MOVA_CACHE), fetched unless they are there."""
    shared = tmp_path_factory.getbasetemp().parent  # of all test processes of this run
    with FileLock(shared / "nano-parts.lock"):
        done = subprocess.run([MOVA, "models", "pull", "mova-nano"], capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"the parts of mova-nano cannot be fetched: {done.stderr}", pytrace=False)
