"""`mova doctor`: exit code, and a way out for each problem."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mova_core.cli.doctor import Problem
from mova_core.cli.machine import has_bf16

Mova = Callable[..., Any]
CardText = Callable[..., str]


def problems(mova: Mova) -> list[Problem]:
    return [Problem(**problem) for problem in json.loads(mova("doctor", "--json").out)["problems"]]


def about(mova: Mova, word: str) -> Problem:
    (problem,) = [problem for problem in problems(mova) if word in problem.what]
    return problem


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment of this package alone: nothing of what the running one has installed is discovered."""
    monkeypatch.setattr("mova_core.cli.doctor.discover", lambda: [])
    monkeypatch.setattr("mova_core.cli.doctor.discover_models", lambda: [])


@pytest.mark.usefixtures("healthy")
def test_a_healthy_environment_ends_with_0(mova: Mova) -> None:
    result = mova("doctor")
    assert result.code == 0
    assert result.out.endswith("No problem found.\n")
    for word in ("python", "torch", "transformers", "cores", "memory", "bf16"):
        assert any(line.startswith(word) for line in result.out.splitlines())


def test_each_problem_comes_with_what_mends_it_and_the_exit_code_is_1(
    mova: Mova, site: Any, card_toml: CardText
) -> None:
    site.install_expert("toy-import", card_toml("toy-import"), code="1 / 0")
    site.install_expert("toy-needs", card_toml("toy-needs"), requires=["toy-none>=3"])
    result = mova("doctor")
    assert result.code == 1
    assert "ZeroDivisionError" in about(mova, "toy-import").what
    assert about(mova, "toy-needs").mend == 'pip install "toy-none>=3"'
    assert 'mend: pip install "toy-none>=3"' in result.out
    assert f"{len(problems(mova))} problems found." in result.out


def test_absent_weights_are_a_problem(mova: Mova, site: Any, card_toml: CardText) -> None:
    package = site.install_expert("toy-light", card_toml("toy-light"))
    assert about(mova, "toy-light").mend.startswith("pip install --force-reinstall")
    (site.root / package / "weights.safetensors").touch()
    assert not [problem for problem in problems(mova) if "toy-light" in problem.what]


def test_absent_parts_of_a_model_are_a_problem(
    mova: Mova, site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MOVA_CACHE", str(tmp_path / "cache"))
    part = (
        '[[parts]]\nid = "base"\ntitle = "Base"\npackage = "toy"\nversion = "1"\nfilename = "toy-1.whl"\n'
        f'sha256 = "{"0" * 64}"\nmember = "toy/w"\nsize_bytes = 1\nlicence = "MIT"\n'
    )
    card = '[model]\nid = "toy-model"\ntitle = "Toy"\ncheckpoint = "weights"\nlicence = "MIT"\n'
    site.install(
        "toy-models",
        groups={"mova.models": {"toy-model": "toy_models:model.toml", "toy-broken": "toy_models:none.toml"}},
        files={"toy_models/model.toml": card + part, "toy_models/weights/config.json": "{}"},
    )
    assert about(mova, "parts of model toy-model are not on disk: base").mend == "mova models pull toy-model"
    assert about(mova, "toy-broken").mend == "pip install --upgrade --force-reinstall --no-deps toy-models"


def test_what_is_switched_off_is_no_problem(
    mova: Mova, site: Any, card_toml: CardText, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install_expert("toy-off", card_toml("toy-off"), code="1 / 0")
    monkeypatch.setenv("MOVA_DISABLE_EXPERTS", "toy-off")
    assert not [problem for problem in problems(mova) if "toy-off" in problem.what]


def test_odd_cards_are_noted(mova: Mova, site: Any, card_toml: CardText) -> None:
    site.install_expert("toy-odd", card_toml("toy-odd", ("paper =", "papers = 1\npaper =")))
    assert "unknown key `[expert] papers`" in "".join(json.loads(mova("doctor", "--json").out)["notes"])


def test_a_broken_behaviour_plugin_is_a_problem(mova: Mova, site: Any) -> None:
    site.install("toy-hook", groups={"mova.hooks": {"toy-hook": "toy_hook"}}, files={"toy_hook.py": "1 / 0"})
    problem = about(mova, "toy-hook")
    assert "ZeroDivisionError" in problem.what
    assert "pip uninstall toy-hook" in problem.mend


def test_a_cache_that_cannot_be_written_is_a_problem(
    mova: Mova, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("MOVA_CACHE", str(file / "cache"))
    assert "MOVA_CACHE" in about(mova, "cache folder").mend


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu sse avx512_bf16 amx_tile\n", True),
        ("processor : 0\nflags\t\t: fpu sse avx512f\nbugs : bf16\n", False),
        ("processor : 0\nFeatures\t: fp asimd bf16\n", True),
    ],
)
def test_bf16_is_read_from_the_flags_of_the_processor(tmp_path: Path, text: str, expected: bool) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(text)
    assert has_bf16(info) is expected
    assert has_bf16(tmp_path / "none") is False
