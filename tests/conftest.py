"""What tests share: cards as text, really installed distributions, and the command line in this process."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from mova_core.cli.main import main

CARD = """
[expert]
api_version = 1
id = "toy"
role = "expert"
title = "A toy"
descriptions = ["finds round things", "looks for circles"]
example_questions = ["How many balls are there?"]
domains = ["photos"]
factory = "toy_package.code:Toy"
parameters = 1200000
paper = "arXiv 0000.00000"
code_licence = "MIT"

[input]
kind = "pixels"
size = [32, 48]
fit = "pad"
pad_colour = [127, 127, 127]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
interpolation = "bilinear"

[features]
channels = 16
grid = [4, 6]

[memory_mb]
float32 = 4.8

[weights]
sources = ["package:weights.safetensors"]
revision = "1"
licence = "Apache-2.0"
"""


@dataclass(frozen=True)
class Result:
    """What a run of the command line left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Site:
    """A folder of installed distributions, made of the same files that pip writes."""

    root: Path

    def install(
        self,
        name: str,
        *,
        groups: Mapping[str, Mapping[str, str]],
        files: Mapping[str, str],
        requires: Iterable[str] = (),
        version: str = "1.0",
    ) -> Path:
        """Install a distribution and return its metadata folder.

        Args:
            name: of the distribution.
            groups: entry points by group, then name.
            files: contents by path below the folder.
            requires: requirements of the distribution.
            version: of the distribution.
        """
        info = self.root / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        (info / "METADATA").write_text(head + "\nName: a line of the description\n")
        lines = [
            line
            for group, entries in groups.items()
            for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for path, text in files.items():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(textwrap.dedent(text))
        return info

    def install_expert(
        self,
        id: str,
        card: str | None,
        *,
        distribution: str | None = None,
        code: str = "class Expert: ...\n",
        requires: Iterable[str] = (),
    ) -> str:
        """Install a distribution with one expert and return its package's name; None leaves the card out."""
        distribution = distribution or f"mova-expert-{id}"
        package = distribution.replace("-", "_")
        files = {f"{package}/__init__.py": "", f"{package}/code.py": code}
        if card is not None:
            files[f"{package}/expert.toml"] = card.replace("toy_package", package)
        self.install(
            distribution,
            groups={"mova.experts": {id: f"{package}:expert.toml"}},
            files=files,
            requires=requires,
        )
        return package


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees the cards and settings of who runs it."""
    monkeypatch.setenv("MOVA_CARD_DIR", str(tmp_path_factory.mktemp("cards")))
    monkeypatch.delenv("MOVA_DISABLE_EXPERTS", raising=False)
    monkeypatch.delenv("MOVA_STRICT_PLUGINS", raising=False)


@pytest.fixture
def card_toml() -> Callable[..., str]:
    """Makes the text of a card: `card_toml("id", ("old text", "new text"), ...)`."""

    def make(id: str = "toy", *changes: tuple[str, str]) -> str:
        text = CARD.replace('id = "toy"', f'id = "{id}"').replace(":Toy", ":Expert")
        for old, new in changes:
            if old not in text:
                raise ValueError(f"the card has no {old!r} to change")
            text = text.replace(old, new)
        return text

    return make


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A folder on `sys.path` to install distributions into; what is imported from it is forgotten later."""
    root = tmp_path / "site"
    root.mkdir()
    monkeypatch.syspath_prepend(root)
    yield Site(root)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(root)):
            del sys.modules[name]


@pytest.fixture
def mova(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command line in this process: `mova("experts", "list")`."""

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


TINY = Path(__file__).parent / "tiny"


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny model's folder: `language`, `text`, and the checkpoint `model`. Copy what a test changes."""
    import torch

    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("tiny")
    experts = {f"tiny-{name}": f"mova_tiny:{name}.toml" for name in ("base", "red", "green", "blue")}
    Site(home / "site").install("mova-tiny", groups={"mova.experts": experts}, files={})
    with pytest.MonkeyPatch.context() as patch:
        _install_tiny(patch, home)
        from mova_tiny.build import build

        build(home)
    yield home


@pytest.fixture
def tiny(tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint of the tiny model, whose distribution `mova-tiny` is installed during the test."""
    _install_tiny(monkeypatch, tiny_home)
    return tiny_home / "model"


def _install_tiny(patch: pytest.MonkeyPatch, home: Path) -> None:
    patch.syspath_prepend(TINY)
    patch.syspath_prepend(home / "site")
