"""`mova experts isolate`: two experts that need two versions of one package serve one pool.

The environments are real, and made by the command. Their packages are tiny wheels that are written here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mova_core.cards.environments import environment_folder, environment_problem
from mova_core.cards.manifest import read_expert_card
from mova_core.cards.resolve import checked, usable_expert
from mova_core.experts.pool import ExpertPool
from mova_core.routing.route import Route

Mova = Callable[..., Any]
CardText = Callable[..., str]

CODE = """
import torch
import mova_toy_scale
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert

class Expert(VisionExpert):
    '''Scales the light of each cell as its version of `mova-toy-scale` does.'''

    @classmethod
    def from_pretrained(cls, source, *, dtype, device):
        return cls()

    @classmethod
    def from_config(cls, **tiny):
        return cls()

    def forward(self, stream):
        cells = torch.nn.functional.adaptive_avg_pool2d(stream.mean(1, keepdim=True), (4, 6))
        return ExpertFeatures(CALL.expand(-1, 16, -1, -1).flatten(2).mT, (4, 6))
"""
# Neither version has what the other one's users call.
SCALES = {
    "1.0": "def double(x):\n    return 2 * x\n",
    "2.0": "def times(x, factor):\n    return factor * x\n",
}
CALLS = {"1.0": "mova_toy_scale.double(cells)", "2.0": "mova_toy_scale.times(cells, 5)"}


def write_wheel(
    folder: Path, distribution: str, version: str, files: dict[str, str], *requires: str, points: str = ""
) -> Path:
    package = distribution.replace("-", "_")
    info = f"{package}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: toy\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": points,
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    wheel = folder / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel


@pytest.fixture
def wheels(tmp_path: Path, card_toml: CardText) -> dict[str, Path]:
    """`mova-toy-scale` in two versions, and for each an expert that needs just this one."""
    found = {}
    for number, version in enumerate(SCALES, start=1):
        package = f"mova_expert_toy_{number}"
        files = {
            f"{package}/__init__.py": "",
            f"{package}/expert.toml": isolated(card_toml, f"toy-{number}").replace("toy_package", package),
            f"{package}/code.py": CODE.replace("CALL", CALLS[version]),
        }
        scale = {"mova_toy_scale.py": SCALES[version]}
        found[version] = write_wheel(tmp_path, "mova-toy-scale", version, scale)
        needs = ("mova-core", f"mova-toy-scale=={version}")
        point = f"[mova.experts]\ntoy-{number} = {package}:expert.toml\n"
        name = f"mova-expert-toy-{number}"
        found[name] = write_wheel(tmp_path, name, "1.0", files, *needs, points=point)
    return found


def isolated(card_toml: CardText, id: str, *changes: tuple[str, str]) -> str:
    """A card of an expert without weights that wants a process of its own."""
    apart = ('factory = "toy', 'isolation = "process"\nfactory = "toy')
    weightless = ('["package:weights.safetensors"]', "[]")
    return card_toml(id, apart, weightless, *changes)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOVA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MOVA_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def toys(site: Any, wheels: dict[str, Path]) -> dict[str, Path]:
    """Both experts as `pip install --no-deps` leaves them: without the package that they disagree about."""
    for name, wheel in wheels.items():
        if name.startswith("mova-expert"):
            zipfile.ZipFile(wheel).extractall(site.root)
    return wheels


def status(mova: Mova) -> dict[str, tuple[str, str]]:
    rows = json.loads(mova("experts", "list", "--json").out)
    return {row["id"]: (row["status"], row["hint"]) for row in rows}


def test_two_experts_whose_requirements_clash_serve_one_pool(
    mova: Mova, toys: dict[str, Path], cache: Path
) -> None:
    ids = ("toy-1", "toy-2")
    for id in ids:
        assert status(mova)[id] == ("missing-dependency", f"mova experts isolate {id}")
    for id, version in zip(ids, SCALES, strict=True):
        paths = (str(toys[version]), str(toys[f"mova-expert-{id}"]))
        made = mova("experts", "isolate", id, *paths, "--share-torch", "--yes")
        assert made.code == 0, made.err
        assert f"make the environment {cache}/environments/{id}-" in made.out
    for id in ids:
        assert status(mova)[id] == ("ok", None)
        assert checked(usable_expert(id)).status == "ok"
    assert "cannot be" not in mova("experts", "check", "toy-1", "--load").out

    pictures = [Image.new("RGB", (48, 32), colour) for colour in ("red", "white", "navy")]
    pool = ExpertPool.from_ids(ids)
    encoded = pool.encode(pictures, [Route(("toy-1",)), Route(ids), Route(("toy-2",))])
    light = pool.expert("toy-1").preprocess(pictures).mean(1)  # [3, h, w]
    corner = light[:, : light.shape[1] // 4, : light.shape[2] // 6].mean((1, 2))
    for id, rows, factor in zip(ids, [(0, 1), (1, 2)], (2, 5), strict=True):
        tokens = encoded[id].features.tokens
        assert encoded[id].rows == rows and tokens.shape == (2, 24, 16)
        alone = ExpertPool.from_ids([id]).encode_all([pictures[row] for row in rows], id)
        assert torch.equal(tokens, alone.tokens)
        torch.testing.assert_close(tokens[:, 0, 0], factor * corner[list(rows)])
        assert version_in(id) == f"mova-toy-scale {tuple(SCALES)[ids.index(id)]}"
    assert "mova_toy_scale" not in sys.modules


def version_in(id: str) -> str:
    """The package that the experts disagree about, as the environment of one of them has it."""
    card = usable_expert(id).card
    assert card is not None
    python = environment_folder(card) / "bin" / "python"
    code = """
        from importlib.metadata import version
        import mova_toy_scale, sys, torch
        assert mova_toy_scale.__file__.startswith(sys.prefix) and not torch.__file__.startswith(sys.prefix)
        print("mova-toy-scale", version("mova-toy-scale"))
    """
    command = [python, "-I", "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_what_this_environment_has_is_neither_taken_nor_touched(
    toys: dict[str, Path], cache: Path, tmp_path: Path
) -> None:
    """Another environment stands for this one: it has the second expert, and the wrong version for it."""
    home = tmp_path / "home"
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    for name in ("1.0", "mova-expert-toy-2"):
        zipfile.ZipFile(toys[name]).extractall(site)
    shared = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "shared.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in shared))
    before = contents(site)
    words = [
        "experts",
        "isolate",
        "toy-2",
        str(toys["2.0"]),
        str(toys["mova-expert-toy-2"]),
        "--share-torch",
        "--yes",
    ]
    code = f"import sys; from mova_core.cli.main import main; sys.exit(main({words!r}))"
    done = subprocess.run([home / "bin" / "python", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (own,) = cache.glob("environments/toy-2-*/lib/python*/site-packages")
    assert {"mova_toy_scale.py", "mova_expert_toy_2", "mova_toy_scale-2.0.dist-info"} <= set(os.listdir(own))
    assert contents(site) == before


def contents(folder: Path) -> dict[str, bytes]:
    """What is in a folder, compiled code aside."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_it_needs_and_does_not_get_leaves_nothing_behind(
    mova: Mova, toys: dict[str, Path], cache: Path
) -> None:
    result = mova("experts", "isolate", "toy-1", str(toys["mova-expert-toy-1"]), "--share-torch", "--yes")
    assert result.code == 2
    assert (
        result.err.startswith("error: this command failed with exit code 1") and result.err.count("\n") == 1
    )
    assert list((cache / "environments").glob("[!.]*")) == []


def test_code_that_cannot_be_imported_leaves_nothing_behind(
    mova: Mova, site: Any, tmp_path: Path, card_toml: CardText, cache: Path
) -> None:
    package = site.install_expert("toy-3", isolated(card_toml, "toy-3"))
    files = {f"{package}/__init__.py": "", f"{package}/code.py": "import mova_not_there\n"}
    wheel = write_wheel(tmp_path, "mova-expert-toy-3", "1.0", files)
    result = mova("experts", "isolate", "toy-3", str(wheel), "--share-torch", "--yes")
    assert result.code == 2
    assert "No module named 'mova_not_there'. Name what is missing: `mova experts isolate toy-3" in result.err
    assert list((cache / "environments").glob("[!.]*")) == []


def test_nothing_is_done_without_a_yes(mova: Mova, toys: dict[str, Path], cache: Path) -> None:
    paths = (str(toys["1.0"]), str(toys["mova-expert-toy-1"]))
    result = mova("experts", "isolate", "toy-1", *paths, "--share-torch")
    assert result.code == 2 and "--yes" in result.err
    assert f"share what it does not bring itself, from {Path(torch.__file__).parents[1]}" in result.out
    assert "-m venv --without-pip" in result.out and "--no-index" in result.out
    assert not cache.exists()


def test_without_sharing_mova_core_is_installed_too(
    mova: Mova, toys: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOVA_OFFLINE")
    result = mova("experts", "isolate", "toy-1", str(toys["1.0"]))
    assert result.code == 2
    for wanted in ("mova-core", "mova_toy_scale-1.0-py3-none-any.whl", "mova-expert-toy-1==1.0"):
        assert wanted in result.out
    assert "share" not in result.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("toy-none",), "no expert has this id; got toy-none; expected toy-"),
        (("toy-plain",), 'got isolation = "none"; expected isolation = "process". Say so in '),
        (("toy-1", "numpy"), "does not vouch for this name, and nothing is fetched by guess; got numpy"),
        (("toy-1", "./nowhere"), "there is nothing to install; got "),
        (("toy-1",), "this would be fetched, and MOVA_OFFLINE is set"),
        (("toy-mine", "--share-torch"), "is a card of your own, and does not say what to install. Add it: "),
    ],
)
def test_errors_are_one_line(
    mova: Mova, toys: dict[str, Path], site: Any, card_toml: CardText, cache: Path, words: Any, said: str
) -> None:
    site.install_expert("toy-plain", card_toml("toy-plain"))
    (Path(os.environ["MOVA_CARD_DIR"]) / "toy-mine.toml").write_text(isolated(card_toml, "toy-mine"))
    result = mova("experts", "isolate", *words, "--yes")
    assert result.code == 2
    assert said in result.err and result.err.count("\n") == 1
    assert not cache.exists()


def test_an_environment_of_another_version_is_not_used(
    mova: Mova, toys: dict[str, Path], cache: Path, site: Any
) -> None:
    card = read_expert_card(site.root / "mova_expert_toy_1" / "expert.toml")
    folder = environment_folder(card)
    (folder / "bin").mkdir(parents=True)
    (folder / "mova.json").write_text('{"version": "0.9"}')
    assert "is not there any more" in environment_problem(card, "1.0")
    (folder / "bin" / "python").symlink_to(sys.executable)
    assert (
        environment_problem(card, "1.0") == "its environment was made for version 0.9, and 1.0 is installed"
    )
    assert environment_problem(card) == ""
    assert status(mova)["toy-1"] == ("missing-dependency", "mova experts isolate toy-1")
    for text in ("", "[]", "{}", "not json"):
        (folder / "mova.json").write_text(text)
        assert "which is not there" in environment_problem(card)
