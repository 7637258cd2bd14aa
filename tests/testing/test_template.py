"""`mova experts new`: the project it writes can be installed, passes its tests, and can be taught."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mova_core.cards.manifest import descriptions_naming, read_expert_card
from mova_core.cards.weights import locate
from mova_core.testing.card_checks import card_findings
from mova_core.testing.project import DESCRIPTIONS, FILES, new_project

Mova = Callable[..., Any]


def python(folder: Path, *arguments: str, path: Path) -> str:
    """Run Python in a folder, with `path` before what is installed."""
    environment = os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_project("toy-turns", tmp_path_factory.mktemp("projects"))


@pytest.fixture(scope="module")
def installed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the project."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--quiet"]
    python(project, "-m", "pip", "install", *options, "--target", str(folder), ".", path=folder)
    return folder


def test_installed_it_passes_its_own_tests(project: Path, installed: Path, tmp_path: Path) -> None:
    # Away from the sources, what is tested is what the wheel holds.
    shutil.copytree(project / "tests", tmp_path / "tests")
    out = python(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", path=installed)
    assert re.search(r"\d+ passed", out) and not re.search("skipped|failed|xfailed|warning", out)


def test_installed_it_is_listed(installed: Path, tmp_path: Path) -> None:
    code = "from mova_core.cli.main import main; main(['experts', 'list', '--status', 'ok'])"
    out = python(tmp_path, "-c", code, path=installed)
    assert re.search(r"^toy-turns +expert +ok +mova-expert-toy-turns 0\.1\.0", out, re.MULTILINE)


def test_its_card_has_nothing_to_mend_and_no_weights_yet(project: Path) -> None:
    path = project / "mova_expert_toy_turns" / "expert.toml"
    card = read_expert_card(path)
    assert card_findings(card) == []
    assert card.weights.sources == ("package:weights.safetensors",)
    assert locate(card.weights.sources[0], beside=path.parent) is None


def test_it_has_the_parts_of_a_project(tmp_path: Path) -> None:
    project = new_project("toy-turns", tmp_path)
    assert "# mova-expert-toy-turns" in (project / "README.md").read_text()
    assert "Apache-2.0" in (project / "LICENSE").read_text() and (project / ".gitignore").is_file()
    assert (project / "mova_expert_toy_turns" / "__init__.py").read_bytes() == b""
    document = tomllib.loads((project / "pyproject.toml").read_text())
    assert document["project"]["entry-points"] == {
        "mova.experts": {"toy-turns": "mova_expert_toy_turns:expert.toml"}
    }
    assert "${{ matrix.python }}" in (project / ".github/workflows/test.yml").read_text()
    assert len([path for path in project.rglob("*") if path.is_file()]) == len(FILES) + 2


def test_it_is_clean_to_the_linters_of_this_project(project: Path) -> None:
    root = Path(__file__).parents[2]
    ruff = [Path(sys.executable).with_name("ruff"), "check", "--isolated", "--line-length", "110"]
    rules = ["--select", "E,F,I,UP,B,SIM", "--config", 'lint.isort.known-first-party=["mova_*"]']
    done = subprocess.run([*ruff, *rules, project], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_taught_it_has_nothing_to_mend(mova: Mova, tmp_path: Path) -> None:
    """A few steps on a few pictures; then the check loads the weights and finds what the card says."""
    project = new_project("toy-taught", tmp_path)
    before = mova("experts", "check", str(project))
    assert before.code == 1
    assert "toy-taught: weights are not on disk. Mend: write " in before.out
    assert "python -m mova_expert_toy_taught.train PICTURES" in before.out
    from mova_core.testing.pictures import picture

    (tmp_path / "pictures").mkdir()
    for seed in range(2):
        picture(48, 40, seed).save(tmp_path / "pictures" / f"{seed}.png")
    train = ["-m", "mova_expert_toy_taught.train", str(tmp_path / "pictures"), "--steps", "2", "--batch", "2"]
    assert "step 2 of 2: loss" in python(project, *train, path=project)
    after = mova("experts", "check", str(project), "--load")
    assert (after.code, after.out) == (0, "1 expert checked: nothing to mend.\n")
    assert str(project) not in sys.path


@pytest.mark.parametrize("id", ["9", "toy-3d", "a-b-c", "x" * 60, "scan", "quarter-turns"])
def test_any_good_name_gives_a_card_that_reads_and_never_names_it(tmp_path: Path, id: str) -> None:
    project = new_project(id, tmp_path)
    (path,) = project.glob("mova_expert_*/expert.toml")
    card = read_expert_card(path)
    assert card.id == id and not descriptions_naming(card) and card_findings(card) == []


@pytest.mark.parametrize("id", ["", "Depth", "-depth", "depth-", "a_b", "../up", "a/b", "x" * 61, "dépth"])
def test_a_bad_name_is_refused(mova: Mova, tmp_path: Path, id: str) -> None:
    result = mova("experts", "new", "--output", str(tmp_path), "--", id)
    assert result.code == 2 and result.err.startswith("error: this is no name for an expert")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_descriptions_cannot_do_without_is_refused(mova: Mova, tmp_path: Path) -> None:
    words = [set(re.findall(r"[a-z]+", words.lower())) for words in DESCRIPTIONS]
    common = sorted(word for word in set().union(*words) if sum(word in own for own in words) > 1)
    assert common
    for word in common:
        result = mova("experts", "new", word, "--output", str(tmp_path))
        assert result.code == 2 and f"Try `mova experts new my-{word}`" in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(mova: Mova, tmp_path: Path) -> None:
    folder = tmp_path / "mova-expert-toy"
    folder.mkdir()
    assert mova("experts", "new", "toy", "--output", str(tmp_path)).code == 0  # an empty one may be filled
    (folder / "pyproject.toml").write_text("mine")
    result = mova("experts", "new", "toy", "--output", str(tmp_path))
    assert result.code == 2 and result.err.startswith("error: the project's folder is in use")
    assert (folder / "pyproject.toml").read_text() == "mine"


def test_a_project_appears_whole_or_not_at_all(
    mova: Mova, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mova_core.testing.project._record", full)
    result = mova("experts", "new", "toy", "--output", str(tmp_path))
    assert result.code == 2 and "cannot be written: No space left on device" in result.err
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file_is_refused(mova: Mova, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = mova("experts", "new", "toy", "--output", str(tmp_path / "file"))
    assert result.code == 2 and "the project cannot be written" in result.err


def test_what_to_do_next_is_said(mova: Mova, tmp_path: Path) -> None:
    out = mova("experts", "new", "toy-next", "--output", str(tmp_path)).out
    for words in ("pip install -e '.[test]'", "python -m pytest", "mova_expert_toy_next.train PICTURES"):
        assert words in out
