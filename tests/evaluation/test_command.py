"""`mova eval`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mova_core.errors import PoolError
from mova_core.model.assistant import Mova

Run = Callable[..., Any]
ITEMS = "mova_tiny.samples:held_out"


def test_tables_and_figures(mova: Run, tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "figures.json"
    result = mova(
        "eval", "--model", str(tiny), "--items", ITEMS, "--count", "2", "--tasks", "red,blue",
        "--modes", "learned,none,random", "--output", str(output),
    )  # fmt: skip
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == "| task | questions | learned | none | random |"
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["red", "blue"]
    assert "| questions | number | routed rightly |" in lines
    figures = json.loads(output.read_text())
    assert figures["accuracy"]["none"]["red"]["total"] == 2
    assert f"wrote {output}" in result.err


def test_a_run_that_was_stopped_goes_on_where_it_was(
    mova: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(output: Path, *more: str) -> Any:
        return mova(
            "eval", "--model", str(tiny), "--items", ITEMS, "--count", "2", "--modes", "none,random",
            "--batch", "2", "--output", str(output), *more,
        )  # fmt: skip

    assert evaluate(tmp_path / "whole.json").code == 0
    whole, answers = (tmp_path / "whole.json").read_text(), Mova.answer
    asked: list[int] = []

    def counted(self: Mova, conversations: Any, **options: Any) -> Any:
        if len(asked) == 4:  # of three batches a mode
            raise PoolError("the run is stopped")
        asked.append(len(conversations))
        return answers(self, conversations, **options)

    output = tmp_path / "stopped.json"
    monkeypatch.setattr(Mova, "answer", counted)
    assert evaluate(output).code == 2
    assert not output.exists()
    for other in (("--tasks", "red"), ("--modes", "random")):  # not what was begun
        assert evaluate(output, *other).code == 2
    asked.clear()
    assert evaluate(output).code == 0
    assert asked == [2, 2]
    assert output.read_text() == whole
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"stopped.json", "whole.json"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--modes", "none,best"), "unknown way of routing; got best"),
        (("--items", "nowhere_at_all:items"), "the samples cannot be built"),
        (("--output", "."), "the output is a folder; got ."),
        (("--model", "mova-nono"), "no such model; got mova-nono"),
    ],
)
def test_errors_are_one_line_before_any_question_is_asked(
    mova: Run, tiny: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = mova("eval", "--model", str(tiny), "--items", ITEMS, "--count", "1", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {said}") and result.err.count("\n") == 1
