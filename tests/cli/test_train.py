"""`mova train`: one stage from its YAML file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Run = Callable[..., Any]


@pytest.fixture
def write(tiny: Path, tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes the configuration of a short run, with changes, into the folder that commands run in."""
    from mova_tiny.build import recipe

    monkeypatch.chdir(tmp_path)

    def make(**changes: Any) -> str:
        fields = recipe(tiny_home, output="run", steps=1, save_every=1)
        fields["data"]["features"] = "features"
        Path("config.yaml").write_text(yaml.safe_dump(fields | changes))
        return "config.yaml"

    return make


def test_a_stage_runs_and_its_model_answers(mova: Run, write: Callable[..., str]) -> None:
    result = mova("train", "align", write(), "--output", "elsewhere", "--steps", "2")
    assert result.code == 0
    assert "align: 8 samples, 2 steps of 4" in result.out and "wrote elsewhere/model" in result.out
    assert not Path("run").exists()
    assert (Path("elsewhere") / "checkpoints" / "checkpoint-2").is_dir()
    resumed = mova("train", "align", "config.yaml", "--output", "elsewhere", "--steps", "2", "--resume")
    assert resumed.code == 0


def test_another_start_can_be_named(mova: Run, write: Callable[..., str], tiny: Path) -> None:
    rates = {"adapter": 1e-3, "answer": 1e-3}
    config = write(stage="sft", model=None, start="nowhere", learning_rates=rates)
    assert "no checkpoint here; got nowhere" in mova("train", "sft", config).err
    assert mova("train", "sft", config, "--start", str(tiny)).code == 0
    assert (Path("run") / "model" / "config.json").is_file()


def test_the_wrong_stage_names_the_right_command(mova: Run, write: Callable[..., str]) -> None:
    result = mova("train", "router", write())
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "error: this file is for another stage; got stage align in config.yaml; expected stage router. "
        "Run `mova train align config.yaml`.\n"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": -1}, "error: config.yaml: steps: "),
        ({"stage": "pretrain"}, "error: config.yaml: stage: "),
        (
            {"data": {"factory": "nowhere_at_all:samples", "features": "f"}},
            "error: the samples cannot be built",
        ),
        ({"model": None}, "error: a run needs one of `start` and `model`"),
        ({"model": None, "start": "nowhere"}, "error: no checkpoint here; got nowhere"),
        ({"learning_rates": {}}, "error: config.yaml: learning_rates: "),
        ({"learning_rates": {"answer": 1e-3}}, "error: learning_rates: a group of weights has none"),
    ],
)
def test_errors_are_one_line(
    mova: Run, write: Callable[..., str], changes: dict[str, Any], said: str
) -> None:
    result = mova("train", "align", write(**changes))
    assert result.code == 2
    assert result.err.startswith(said) and result.err.count("\n") == 1


def test_an_unknown_expert_of_the_pool_is_one_line(
    mova: Run, write: Callable[..., str], tiny_home: Path
) -> None:
    from mova_tiny.build import recipe

    model = recipe(tiny_home)["model"] | {"pool": ["tiny-rad"]}
    result = mova("train", "align", write(model=model))
    assert result.code == 2
    assert result.err.startswith("error: no expert has this id; got tiny-rad; expected tiny-red")
    assert result.err.count("\n") == 1


def test_a_missing_file_is_one_line(mova: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = mova("train", "align", "nowhere.yaml")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: the training configuration cannot be read; got nowhere.yaml")
    assert result.err.count("\n") == 1


def test_the_help_names_the_stages(mova: Run) -> None:
    result = mova("train", "--help")
    assert result.code == 0
    for stage in ("align", "sft", "router"):
        assert stage in result.out
