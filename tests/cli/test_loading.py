"""Options of commands that load a model: `mova ask` and `mova route`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., Any]


@pytest.fixture(params=["ask", "route"])
def run(
    request: pytest.FixtureRequest, mova: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs a command with a picture, a question and the tiny model, for JSON."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (30, 20), (200, 30, 40)).save("red.png")
    short = ("--max-new-tokens", "2") if request.param == "ask" else ()
    return lambda *words: mova(
        request.param, "red.png", "Why?", "--model", str(tiny), "--json", *short, *words
    )


@pytest.mark.parametrize(
    "words",
    [
        ("--device", "cpu", "--dtype", "bf16"),
        ("--device", "auto", "--dtype", "float32"),
        ("--quantize", "8bit"),
        ("--quantize", "4bit", "--dtype", "float32"),
    ],
)
def test_a_model_can_be_loaded_otherwise(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.code == 0
    assert json.loads(result.out)


def test_options_reach_the_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from mova_core.model import load as module

    given: dict[str, Any] = {}
    load = module.load

    def watched(name: str, **options: Any) -> Any:
        given.update(options)
        return load(name)

    monkeypatch.setattr(module, "load", watched)
    assert run("--device", "cpu", "--dtype", "bf16", "--quantize", "8bit", "--compile").code == 0
    wanted = {"device": "cpu", "dtype": "bf16", "quantization": "8bit", "compile": True}
    assert {name: given[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "cuda:17"), "error: this device is not here; got cuda:17"),
        (("--device", "quantum"), "error: no such device; got quantum"),
        (("--dtype", "int8"), "error: a model cannot be loaded in this dtype; got int8; expected auto"),
    ],
)
def test_errors_are_one_line(run: Run, words: tuple[str, ...], said: str) -> None:
    result = run(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(said) and result.err.count("\n") == 1


def test_other_bits_are_an_error_of_usage(run: Run) -> None:
    result = run("--quantize", "2bit")
    assert result.code == 2 and "--quantize" in result.err


def test_experts_may_run_elsewhere(
    mova: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (30, 20), (200, 30, 40)).save("red.png")
    words = ("ask", "red.png", "Why?", "--model", str(tiny), "--max-new-tokens", "2", "--expert-device")
    assert mova(*words, "cpu").code == 0
    result = mova(*words, "quantum")
    assert (result.code, result.err.splitlines()[-1].startswith("error: no such device")) == (2, True)
