"""The curated index: every entry of this repository, and what a wrong one is told."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mova_core.cards.registry import RegistryEntry, read_registry
from mova_core.errors import CardError

REGISTRY = Path(__file__).parents[2] / "registry"
README = (REGISTRY / "README.md").read_text()
EXAMPLE = README.split("```toml\n")[1].split("```")[0]


def test_every_entry_of_this_repository_is_valid_and_none_is_lost() -> None:
    ids = [entry.id for entry in read_registry(REGISTRY)]
    assert ids == sorted(path.stem for path in REGISTRY.glob("*.toml"))


def test_the_example_of_the_readme_is_a_whole_entry(tmp_path: Path) -> None:
    (tmp_path / "my-expert.toml").write_text(EXAMPLE)
    (entry,) = read_registry(tmp_path)
    assert entry.distribution == "mova-expert-my-expert"
    assert tomllib.loads(EXAMPLE)["entry"].keys() == RegistryEntry.model_fields.keys()


@pytest.mark.parametrize("key", RegistryEntry.model_fields)
def test_a_missing_key_is_named_with_the_file(tmp_path: Path, key: str) -> None:
    lines = [line for line in EXAMPLE.splitlines() if not line.startswith(f"{key} ")]
    (tmp_path / "my-expert.toml").write_text("\n".join(lines))
    with pytest.raises(CardError, match=rf"my-expert.toml: key `\[entry\] {key}` is missing"):
        read_registry(tmp_path)


def test_a_file_is_named_after_its_id(tmp_path: Path) -> None:
    (tmp_path / "another.toml").write_text(EXAMPLE)
    with pytest.raises(CardError, match="expected my-expert.toml"):
        read_registry(tmp_path)
