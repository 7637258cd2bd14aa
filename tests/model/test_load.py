"""Finding a model by name or directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mova_core
from mova_core.errors import CheckpointError
from mova_core.model.load import find_checkpoint

CARD = """
[model]
id = "toy-model"
title = "A toy"
checkpoint = "checkpoint"
licence = "MIT"
"""


@pytest.fixture
def toy_model(site: Any) -> Path:
    """An installed model whose checkpoint holds nothing yet."""
    files = {"toy_model/__init__.py": "", "toy_model/model.toml": CARD, "toy_model/checkpoint/readme": ""}
    site.install("toy-model", groups={"mova.models": {"toy-model": "toy_model:model.toml"}}, files=files)
    return Path(site.root) / "toy_model" / "checkpoint"


def test_a_directory_is_found_as_it_is(tiny: Path) -> None:
    assert find_checkpoint(tiny) == find_checkpoint(str(tiny)) == tiny


def test_an_installed_model_is_found_by_name(toy_model: Path) -> None:
    assert find_checkpoint("toy-model") == toy_model


def test_an_unknown_name_offers_the_nearest(toy_model: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint("toy-modle")
    assert str(caught.value) == (
        "no such model; got toy-modle; expected toy-model or a checkpoint directory. "
        "`mova models list` shows what is installed."
    )


def test_a_name_like_no_other_offers_all(toy_model: Path) -> None:
    with pytest.raises(CheckpointError, match="got qqq; expected .*toy-model or a checkpoint directory"):
        find_checkpoint("qqq")


def test_a_model_whose_card_is_wrong_says_so(site: Any) -> None:
    site.install(
        "toy-broken",
        groups={"mova.models": {"toy-broken": "toy_broken:model.toml"}},
        files={"toy_broken/__init__.py": "", "toy_broken/model.toml": "[model]\n"},
    )
    with pytest.raises(CheckpointError, match="model toy-broken cannot be used: .*model.toml"):
        find_checkpoint("toy-broken")


def test_an_installed_model_without_its_files_says_so(toy_model: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        mova_core.load("toy-model")


def test_the_package_loads_a_model(tiny: Path) -> None:
    told: list[str] = []
    assistant = mova_core.load(tiny, dtype=torch.float32, progress=told.append)
    assert told == [f"loading {tiny}"]
    assistant.pool.expert("tiny-red")
    assert told[1].startswith("loading tiny-red") and told[2].startswith("loaded tiny-red")


def test_the_pool_holds_the_models_own_base_encoder(tiny: Path) -> None:
    assistant = mova_core.load(tiny)
    assert assistant.pool.expert("tiny-base") is assistant.model.base


def test_the_pool_is_the_models_own_whatever_else_is_installed(
    tiny: Path, site: Any, card_toml: Callable[..., str]
) -> None:
    site.install_expert("toy", card_toml("toy"))
    assert mova_core.load(tiny).pool.ids == ("tiny-blue", "tiny-green", "tiny-red")


def test_without_a_cache_every_question_is_seen_anew(tiny: Path, picture: Any) -> None:
    for cache_bytes, times in ((0, 2), (2**20, 1)):
        assistant = mova_core.load(tiny, cache_bytes=cache_bytes)
        for _ in range(2):
            assistant.ask(picture(1), "Why?", experts=["tiny-red"], max_new_tokens=1)
        assert assistant.pool.expert("tiny-red").seen == assistant.model.base.seen == times


def test_everything_is_in_the_dtype_asked_for(tiny: Path, picture: Any) -> None:
    assistant = mova_core.load(tiny, dtype=torch.bfloat16)
    assert assistant.model.language_model.dtype == torch.bfloat16
    assert assistant.model.adapter.position.dtype == torch.float32  # small, and sums of many terms
    assert assistant.pool.encode_all([picture(1)], "tiny-red").tokens.dtype == torch.bfloat16
    assert assistant.ask(picture(1), "Why?", experts=["tiny-red"], max_new_tokens=2).images[0].gates


def test_the_package_has_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ask'"):
        mova_core.ask  # noqa: B018
