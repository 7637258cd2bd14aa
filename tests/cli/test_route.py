"""`mova route`: routing alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., Any]
QUESTION = "Where is the grass?"
OWN = {"tiny-red", "tiny-green", "tiny-blue"}


@pytest.fixture
def route(mova: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `mova route` with the tiny model, in a folder with a picture `red.png`."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (30, 20), (200, 30, 40)).save("red.png")
    Path("text.png").write_text("this is no picture")
    return lambda *words: mova("route", *words, "--model", str(tiny))


def test_experts_are_shown_the_most_probable_first(route: Run) -> None:
    result = route("red.png", QUESTION)
    assert result.code == 0
    *lines, last = result.out.splitlines()
    shares = [float(line[2:].split()[0]) for line in lines]
    assert shares == sorted(shares, reverse=True)
    assert {line[2:].split()[1] for line in lines} == OWN
    chosen = [line[2:].split()[1] for line in lines if line.startswith("*")]
    assert last == "route   " + (", ".join(chosen) or "none")


def test_json(route: Run) -> None:
    found = json.loads(route("red.png", QUESTION, "--json").out)
    assert list(found) == ["route", "router", "probabilities", "no_pack"]
    assert found["router"] == "pointwise" and found["no_pack"] == []
    assert set(found["probabilities"]) == OWN
    assert all(0 <= probability <= 1 for probability in found["probabilities"].values())


def test_no_expert_is_run(route: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from mova_tiny.experts import Red

    def forward(self: Red, stream: object) -> None:
        raise RuntimeError("an expert was run")

    monkeypatch.setattr(Red, "forward", forward)
    result = route("red.png", QUESTION, "--router", "all")
    assert result.code == 0 and result.out.endswith("route   tiny-blue, tiny-green, tiny-red\n")


def test_experts_without_a_pack_can_be_on_offer(route: Run, site: Any, card_toml: Callable[..., str]) -> None:
    site.install_expert("toy", card_toml("toy"))
    found = json.loads(route("red.png", QUESTION, "--pool", "installed", "--json").out)
    assert set(found["probabilities"]) >= OWN | {"toy"}
    assert "toy" in found["no_pack"] and not OWN & set(found["no_pack"])
    assert "tiny-base" not in found["probabilities"]
    lines = route("red.png", QUESTION, "--pool", "installed").out.splitlines()
    (line,) = [line for line in lines if "  toy  A toy" in line]
    assert "no pack for" in line and "does not answer" in line


def test_routing_is_what_asking_does(route: Run, mova: Run, tiny: Path) -> None:
    alone = json.loads(route("red.png", QUESTION, "--json").out)
    words = ("red.png", QUESTION, "--model", str(tiny), "--max-new-tokens", "1", "--json")
    (trace,) = json.loads(mova("ask", *words).out)["images"]
    assert (trace["route"], trace["probabilities"]) == (alone["route"], alone["probabilities"])


def test_a_plugin_brings_a_router(route: Run, site: Any) -> None:
    code = """
    from mova_core.hookspecs import hookimpl
    from mova_core.routing.baselines import FixedRouter

    @hookimpl
    def mova_routers():
        return {"always-blue": lambda: FixedRouter(["tiny-blue"])}
    """
    site.install(
        "blue-router", groups={"mova.hooks": {"blue-router": "blue_router"}}, files={"blue_router.py": code}
    )
    assert json.loads(route("red.png", QUESTION, "--router", "always-blue", "--json").out)["route"] == [
        "tiny-blue"
    ]
    assert "always-blue" in route("red.png", QUESTION, "--router", "oracle").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.png", QUESTION), "error: image 'nowhere.png' does not exist"),
        (("text.png", QUESTION), "error: image 'text.png' cannot be read"),
        (("red.png", " "), "error: the question is empty"),
        (("red.png", "a" * 50_000), "error: the question is too long"),
        (("red.png", QUESTION, "--router", "oracle"), "error: unknown router; got oracle"),
    ],
)
def test_errors_are_one_line(route: Run, words: tuple[str, ...], said: str) -> None:
    result = route(*words, "--json")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(said) and result.err.count("\n") == 1


def test_an_unknown_model_is_one_line(route: Run, mova: Run) -> None:
    result = mova("route", "red.png", QUESTION, "--model", "mova-nono")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: no such model; got mova-nono") and result.err.count("\n") == 1


def test_an_unknown_pool_is_an_error_of_usage(route: Run) -> None:
    result = route("red.png", QUESTION, "--pool", "whole")
    assert result.code == 2 and "--pool" in result.err
