"""Every script of `examples/` runs and shows what it is there to show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWS = {
    "add_expert.py": ["edge-strength", "features [b, n, c] = [1, 256, 3]"],
    "ask.py": ["nano-medical", "answer"],
    "edge_strength.py": [],
    "my_router.py": ["learned:", "Routed by keywords to nano-"],
}
SIZE_LIMIT = 400 * 1024


def test_each_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == SHOWS.keys()


@pytest.mark.parametrize("name", sorted(SHOWS))
def test_example(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    missing = [text for text in SHOWS[name] if text not in done.stdout]
    assert not missing, done.stdout


def test_an_example_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "ask.py", tmp_path / "none.png", "What is it?"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "none.png" in last
    assert "Traceback" not in done.stderr


def test_every_picture_has_its_terms_and_all_are_small() -> None:
    pictures = [path for path in (EXAMPLES / "images").iterdir() if path.suffix != ".md"]
    terms = (EXAMPLES / "images" / "LICENSES.md").read_text(encoding="utf-8")
    assert pictures and all(f"`{picture.name}`" in terms for picture in pictures)
    assert sum(picture.stat().st_size for picture in pictures) <= SIZE_LIMIT
