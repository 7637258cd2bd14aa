"""Listing, describing and help import neither a heavy package nor a plugin, however many are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

HEAVY = ("torch", "transformers", "timm", "peft", "accelerate", "numpy", "PIL")

RUN = """
import json, sys
from mova_core.cli.main import main
code = main(sys.argv[1:])
print("\\n" + json.dumps({"code": code, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


def run(site: Any, *arguments: str) -> tuple[str, set[str]]:
    """Run `mova` in a fresh interpreter and return its output and the modules it imported."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        env=os.environ | {"PYTHONPATH": str(site.root)},
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stderr.splitlines()[-1])
    assert report["code"] == 0
    return done.stdout, set(report["modules"])


def test_a_thousand_cards_are_listed_without_loading_one(site: Any, card_toml: Callable[..., str]) -> None:
    names = [f"toy-{number:04}" for number in range(1000)]
    for name in names:
        code = "raise RuntimeError('imported')\n"
        site.install_expert(name, card_toml(name), code=code, requires=["mova-core", "torch>=2"])
    out, modules = run(site, "experts", "list", "--json")
    rows = {row["id"]: row for row in json.loads(out)}
    assert [rows[name]["status"] for name in names] == ["ok"] * 1000
    assert not {module for module in modules if module.startswith("mova_expert_")}
    assert modules.isdisjoint(HEAVY)
    assert "rich" not in modules


@pytest.mark.parametrize("arguments", [["experts", "list"], ["experts", "describe", "toy-light"]])
def test_listing_and_describing_import_nothing_heavy(
    site: Any, card_toml: Callable[..., str], arguments: list[str]
) -> None:
    package = site.install_expert(
        "toy-light", card_toml("toy-light"), code="raise RuntimeError('imported')\n"
    )
    out, modules = run(site, *arguments)
    assert "toy-light" in out
    assert modules.isdisjoint({*HEAVY, "rich", package})
    assert modules.isdisjoint({"mova_core.cli.search", "mova_core.cli.install", "mova_core.cli.authoring"})


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["experts", "--help"]])
def test_help_imports_no_other_command_and_nothing_for_tables(site: Any, arguments: list[str]) -> None:
    _, modules = run(site, *arguments)
    assert modules.isdisjoint({*HEAVY, "rich", "pluggy"})
    commands = {name for name in modules if name.startswith("mova_core.cli.")} - {"mova_core.cli.main"}
    parts = "authoring check expert_text experts freeze install isolate plan search table"
    own = {f"mova_core.cli.{name}" for name in parts.split()}
    assert commands == (own if arguments[0] == "experts" else set())
