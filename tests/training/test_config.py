"""The YAML file of a run: what is wrong with it is said with the field."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mova_core.errors import ConfigError
from mova_core.training.config import read_train_config

GOOD = {
    "stage": "sft",
    "output": "runs/toy",
    "start": "checkpoint",
    "data": {"factory": "toy:samples", "features": "runs/features"},
    "learning_rates": {"adapter": 1e-3},
    "steps": 10,
}


def write(folder: Path, content: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    config = read_train_config(write(tmp_path, GOOD))
    assert (config.stage, config.steps, config.batch, config.data.extra_experts) == ("sft", 10, 16, 1)


def test_fields_can_be_replaced(tmp_path: Path) -> None:
    config = read_train_config(write(tmp_path, GOOD), steps=3, start="other")
    assert (config.steps, config.start, config.output) == (3, "other", "runs/toy")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stage": "pretrain"}, "stage: "),
        ({"steps": 0}, "steps: "),
        ({"steps": None}, "steps: "),
        ({"stpes": 3}, "stpes: "),
        ({"data": {"features": "f"}}, "data.factory: Field required"),
        ({"routes": {"none": 1.5}}, "routes.none: "),
        ({"learning_rates": {"adapter": -1}}, "learning_rates.adapter: "),
        ({"loras": {"anwser": {}}}, "loras.anwser"),
        ({"loras": {"answer": {"dropout": 1}}}, "loras.answer.dropout: "),
        ({"model": {"base": "toy"}}, "model.pool: Field required"),
    ],
)
def test_an_error_names_the_file_and_the_field(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = write(tmp_path, GOOD | change)
    with pytest.raises(ConfigError) as caught:
        read_train_config(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: {said}")
    assert "docs/training.md" in line and "\n" not in line


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "is empty"), ("- a\n- b\n", "is empty"), ("a: [1", "cannot be read"), ("\t:", "cannot be read")],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"the training configuration {said}"):
        read_train_config(write(tmp_path, content))


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read; got .*nowhere.yaml"):
        read_train_config(tmp_path / "nowhere.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_train_config(tmp_path / "b.yaml")
