from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mova_core.errors import ExpertLoadError
from mova_core.experts.stated import stated_config


def state(folder: Path, document: Any) -> Path:
    (folder / "config.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"model_type": "eye", "size": 3}, {"model_type": "eye", "size": 3}),
        ({"model_type": "face", "vision_config": {"size": 4}}, {"size": 4}),
        ({"model_type": "ear", "size": 3}, None),
        ({}, None),
    ],
)
def test_the_encoders_own_entries_are_handed_over(tmp_path: Path, document: Any, expected: Any) -> None:
    assert stated_config(state(tmp_path, document), dict, encoder="eye", whole="face") == expected


def test_nothing_is_stated_of_a_single_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert stated_config(tmp_path / "model.safetensors", dict, encoder="eye") is None
    assert stated_config(tmp_path, dict, encoder="eye") is None


@pytest.mark.parametrize(
    "document", ["{", "[]", {"model_type": "eye", "size": "x"}, {"model_type": "face", "size": 3}]
)
def test_what_cannot_be_read_is_named(tmp_path: Path, document: Any) -> None:
    with pytest.raises(ExpertLoadError, match="config.json"):
        stated_config(state(tmp_path, document), lambda own: int(own["size"]), encoder="eye", whole="face")
