"""`docs/training.md` names every field of a training configuration, and the recipes of stages are such."""

from __future__ import annotations

from pathlib import Path

import pytest

from mova_core.cards.spec import Spec
from mova_core.training.config import (
    DataSettings,
    LoraSettings,
    NewModel,
    RouteSettings,
    TrainConfig,
    read_train_config,
)
from mova_core.training.samples import Sample

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "plugins").glob("*/recipes/[1-9]-*.yaml"))


@pytest.mark.parametrize("kind", [TrainConfig, NewModel, DataSettings, RouteSettings, LoraSettings])
def test_every_field_is_described(kind: type[Spec]) -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert [name for name in kind.model_fields if f"`{name}`" not in text] == []


def test_every_field_of_a_sample_is_described() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert [name for name in Sample.__dataclass_fields__ if f"`{name}`" not in text] == []


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_recipe_is_a_configuration(recipe: Path) -> None:
    config = read_train_config(recipe)
    assert recipe.stem.endswith(config.stage)
    assert (config.start is None) != (config.model is None)


def test_each_recipe_starts_from_what_the_one_before_writes() -> None:
    for before, after in zip(RECIPES, RECIPES[1:], strict=False):
        if before.parent == after.parent:
            assert read_train_config(after).start == f"{read_train_config(before).output}/model"
