"""The expert `deplot`: what is its own; `mova-expert-pix2struct` tests the architecture they share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mova_core.cards.resolve import usable_expert
from mova_core.errors import ExpertLoadError
from mova_core.testing import ExpertConformance
from mova_expert_deplot.expert import RELEASED, DeplotExpert

TINY = {**RELEASED, "hidden_size": 32, "d_ff": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
PREFIXES = {
    "hub": "encoder.",
    "encoder alone": "",
    "release": "model.vision_tower.vision_tower_5.",
}


class TestConformance(ExpertConformance):
    expert = "deplot"
    full = RELEASED
    preprocessing = Path(__file__).parent / "data" / "preprocessing.safetensors"


class Small(DeplotExpert):
    """The expert as if tiny sizes had been released."""

    released = TINY


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return dict(DeplotExpert.from_config(**TINY).encoder.state_dict())


def _load(folder: Path, state: dict[str, Tensor]) -> DeplotExpert:
    save_file(state, folder / "model.safetensors")
    return Small.from_pretrained(str(folder), dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_every_layout_loads(prefix: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    loaded = _load(tmp_path, {prefix + name: tensor for name, tensor in weights.items()}).encoder.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_the_other_tower_of_the_release_is_not_taken(weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ExpertLoadError, match="vision_tower_5"):
        _load(tmp_path, {"model.vision_tower.vision_tower_4." + name: t for name, t in weights.items()})


def test_a_picture_is_cut_once_for_both_experts_of_the_architecture() -> None:
    own, other = (usable_expert(id).card for id in ("deplot", "pix2struct"))
    assert own is not None and other is not None
    assert own.input.hash == other.input.hash
