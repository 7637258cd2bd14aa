"""`mova plan`: a table, JSON, and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def plan(mova: Run, tiny: Path) -> Run:
    """Runs `mova plan` for the tiny model."""
    return lambda *words: mova("plan", str(tiny), *words)


def test_a_table_says_what_goes_where(plan: Run, tiny: Path) -> None:
    result = plan("--gpus", "24GB", "--dtype", "bf16")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == f"{tiny} in bfloat16"
    rows = [line.split("  ") for line in lines]
    assert any(row[0] == "cuda:0" and "24.0 GB" in row for row in rows)
    for what in ("language model, all of it", "LoRAs", "text encoder", "base encoder tiny-base"):
        assert sum(what in line for line in lines) == 1
    assert "left for experts: the pool's budget" in result.out
    for id in ("tiny-red", "tiny-green", "tiny-blue"):
        assert any(line.startswith("disk") and f"expert {id}" in line for line in lines)
    assert "loaded side by side: all" in lines
    assert [line.partition(":")[0] for line in lines if line.startswith("route of")] == [
        "route of 1",
        "route of 2",
        "route of 3",
    ]
    assert lines[-1] == "It fits."


def test_what_does_not_fit_comes_with_what_would(plan: Run) -> None:
    result = plan("--gpus", "500.7MB", "--working", "1MB")
    assert result.code == 1
    assert "It does not fit: cuda:0 lacks " in result.out and "lacking" in result.out
    assert "On one device, all of it takes " in result.out
    result = plan("--gpus", "2.3GB", "--dtype", "fp32")
    assert result.code == 1 and "\nWhat would fit: --dtype bfloat16" in result.out
    assert plan("--gpus", "2.3GB", "--dtype", "bfloat16").code == 0


def test_json(plan: Run) -> None:
    result = plan("--gpus", "2x24GB", "--quantize", "4bit", "--json")
    assert result.code == 0
    found = json.loads(result.out)
    assert found["fits"] and found["quantization"] == "4bit" and found["dtype"] == "bfloat16"
    assert [device["device"] for device in found["devices"]] == ["cuda:0", "cuda:1"]
    for device in found["devices"]:
        assert device["bytes"] == device["free"] + sum(item["bytes"] for item in device["holds"])
    assert found["expert_budget"] == found["devices"][0]["free"]
    assert set(found["experts"]) == set(found["together"]) == {"tiny-red", "tiny-green", "tiny-blue"}
    assert found["device_map"]["model.embed_tokens"] == "cuda:0"
    assert found["would_fit"] == []


def test_without_gpus_this_machine_is_planned(plan: Run) -> None:
    found = json.loads(plan("--json").out)
    assert found["devices"] and found["expert_budget"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpus", "24TB"), "error: these are no GPUs; got 24TB; expected a size for each, such as 24GB"),
        (("--gpus", ""), "error: these are no GPUs"),
        (("--working", "lots"), "error: this is no size of memory; got lots"),
        (("--dtype", "int8"), "error: a model cannot be loaded in this dtype; got int8"),
        (("--context", "9999"), "error: the language model reads no conversation of this length"),
    ],
)
def test_errors_are_one_line(plan: Run, words: tuple[str, ...], said: str) -> None:
    result = plan(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(said) and result.err.count("\n") == 1


def test_an_unknown_model_is_one_line(mova: Run) -> None:
    result = mova("plan", "mova-nono", "--gpus", "24GB")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: no such model; got mova-nono") and result.err.count("\n") == 1
