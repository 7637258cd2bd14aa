"""`mova ask`: its output, and its errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., Any]
QUESTION = "What colour is it?"


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A picture that is wider than high, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (30, 20), (200, 30, 40)).save("red.png")
    return "red.png"


@pytest.fixture
def ask(mova: Run, tiny: Path) -> Run:
    """Runs `mova ask` with the tiny model and short answers."""
    return lambda *words: mova("ask", *words, "--model", str(tiny), "--max-new-tokens", "3")


def test_the_answer_comes_with_its_route_and_gate_weights(ask: Run, picture: str) -> None:
    result = ask(picture, QUESTION, "--experts", "tiny-red, tiny-blue")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].startswith("route   tiny-red, tiny-blue   (")
    for line, id in zip(lines[1:3], ("tiny-red", "tiny-blue"), strict=True):
        assert line.startswith(f"gate    {id}   block 1 0.") and "block 2 0." in line
    assert lines[3].startswith("answer  ")


def test_the_router_decides_unless_told_otherwise(ask: Run, picture: str) -> None:
    (route, *_) = ask(picture, QUESTION).out.splitlines()
    for id in ("tiny-red", "tiny-green", "tiny-blue"):
        assert f"{id} 0." in route
    assert ask(picture, QUESTION, "--router", "all").out.startswith("route   tiny-blue, tiny-green, tiny-red")
    for nobody in (("--router", "none"), ("--experts", "")):
        assert ask(picture, QUESTION, *nobody).out.startswith("route   none")


@pytest.mark.parametrize("router", ["learned", "listwise", "similarity", "random"])
def test_every_router_routes(ask: Run, picture: str, router: str) -> None:
    result = ask(picture, QUESTION, "--router", router, "--json")
    assert result.code == 0
    (trace,) = json.loads(result.out)["images"]
    assert set(trace["probabilities"]) == {"tiny-red", "tiny-green", "tiny-blue"}
    assert set(trace["route"]) == set(trace["gates"])


def test_json(ask: Run, picture: str) -> None:
    result = ask(picture, QUESTION, "--experts", "tiny-red", "--json")
    assert result.code == 0
    found = json.loads(result.out)
    assert list(found) == ["answer", "images", "skipped", "seconds", "heat_maps"]
    assert isinstance(found["answer"], str)
    (trace,) = found["images"]
    assert trace == {
        "route": ["tiny-red"],
        "router": "fixed",
        "probabilities": {"tiny-blue": 0.0, "tiny-green": 0.0, "tiny-red": 1.0},
        "gates": {"tiny-red": [1.0, 1.0]},
    }
    assert set(found["seconds"]) == {"look", "route", "experts", "fuse", "answer"}
    assert found["skipped"] == {} and found["heat_maps"] == []


def test_nothing_but_the_answer_is_written(ask: Run, picture: str) -> None:
    result = ask(picture, QUESTION, "--experts", "tiny-red", "--json")
    json.loads(result.out)
    assert result.err == ""


def test_explaining_writes_a_heat_map_for_each_expert(ask: Run, picture: str) -> None:
    result = ask(picture, QUESTION, "--experts", "tiny-red,tiny-green", "--explain")
    assert result.code == 0
    written = [line.split()[1] for line in result.out.splitlines() if line.startswith("heat ")]
    assert written == ["mova-explain/tiny-red.png", "mova-explain/tiny-green.png"]
    assert [Image.open(path).size for path in written] == [(30, 20)] * 2
    assert any(line.startswith("time    look ") for line in result.out.splitlines())


def test_several_pictures_have_a_route_each(ask: Run, picture: str) -> None:
    Image.new("RGB", (10, 20), "blue").save("blue.png")
    maps = ("--explain", "--heat-maps", "maps")
    result = ask(picture, QUESTION, "--image", "blue.png", "--experts", "tiny-red", *maps)
    assert result.code == 0
    for number in (1, 2):
        assert f"image {number}: route   tiny-red" in result.out
    assert [Image.open(f"maps/image-{n}/tiny-red.png").size for n in (1, 2)] == [(30, 20), (10, 20)]


def test_a_failing_expert_can_be_left_out(ask: Run, picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mova_tiny.experts import Red

    def forward(self: Red, stream: object) -> None:
        raise RuntimeError("out of paint")

    monkeypatch.setattr(Red, "forward", forward)
    words = (picture, QUESTION, "--experts", "tiny-red,tiny-blue")
    failed = ask(*words, "--json")
    assert failed.code == 2 and failed.err.count("\n") == 1 and "out of paint" in failed.err
    result = ask(*words, "--skip-failing")
    assert result.code == 0
    assert "skipped tiny-red: " in result.err and "gate    tiny-red" not in result.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.png", QUESTION), "error: image 'nowhere.png' does not exist"),
        (("text.png", QUESTION), "error: image 'text.png' cannot be read"),
        (("empty.png", QUESTION), "error: image 'empty.png' is empty"),
        ((".", QUESTION), "error: image '.' is a folder"),
        (("red.png", ""), "error: the question is empty"),
        (("red.png", "  "), "error: the question is empty"),
        (("red.png", "a" * 50_000), "error: the question is too long; got 50,000 characters"),
        (("red.png", "Is <image> red?"), "error: the question holds a mark that the language model reads"),
        (("red.png", QUESTION, "--image", "nowhere.png"), "error: image 'nowhere.png' does not exist"),
        (("red.png", QUESTION, "--experts", "tiny-rad"), "error: no such expert is on offer; got tiny-rad"),
        (
            ("red.png", QUESTION, "--experts", "tiny-red,tiny-red"),
            "error: a fixed route names an expert twice",
        ),
        (
            ("red.png", QUESTION, "--router", "oracle"),
            "error: unknown router; got oracle; expected one of learned",
        ),
    ],
)
def test_errors_are_one_line(ask: Run, picture: str, words: tuple[str, ...], said: str) -> None:
    Path("text.png").write_text("this is no picture")
    Path("empty.png").write_bytes(b"")
    result = ask(*words, "--json")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(said) and result.err.count("\n") == 1


def test_an_unknown_model_is_one_line(mova: Run, tiny: Path, picture: str) -> None:
    result = mova("ask", picture, QUESTION, "--model", "mova-nono")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: no such model; got mova-nono") and result.err.count("\n") == 1


def test_a_damaged_checkpoint_is_one_line(mova: Run, tiny: Path, picture: str, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    data = (copy / "core.safetensors").read_bytes()
    (copy / "core.safetensors").write_bytes(data[:1000])
    result = mova("ask", picture, QUESTION, "--model", "copy", "--json")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: a weight file cannot be read; got copy/core.safetensors")
    assert result.err.count("\n") == 1


def test_a_checkpoint_whose_experts_are_not_installed_is_one_line(
    mova: Run, tiny: Path, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOVA_DISABLE_EXPERTS", "tiny-red")
    result = mova("ask", picture, QUESTION, "--model", str(tiny), "--json")
    assert (result.code, result.out) == (2, "")
    assert "tiny-red is disabled" in result.err and result.err.count("\n") == 1


def test_wrong_input_is_said_before_a_model_is_looked_for(mova: Run, picture: str) -> None:
    result = mova("ask", "nowhere.png", QUESTION, "--model", "mova-nono")
    assert "nowhere.png" in result.err and "mova-nono" not in result.err


WRONG_INPUT = """
import sys
from mova_core.cli.main import main
assert main(sys.argv[1:]) == 2
assert not {"torch", "transformers"} & sys.modules.keys()
"""


@pytest.mark.parametrize("command", ["ask", "route"])
@pytest.mark.parametrize("words", [("nothing.jpg", "Why?"), ("red.png", " ")])
def test_wrong_input_is_said_before_anything_heavy_is_imported(
    tmp_path: Path, command: str, words: tuple[str, ...]
) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "red.png")
    subprocess.run([sys.executable, "-c", WRONG_INPUT, command, *words], cwd=tmp_path, check=True)
