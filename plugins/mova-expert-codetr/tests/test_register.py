"""The backbone in detectron2: with a stand-in for it, and without it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import mova_expert_codetr.expert
from mova_core.errors import ConfigError
from mova_expert_codetr.backbone import RELEASED_BACKBONE
from mova_expert_codetr.expert import CoDetrExpert
from mova_expert_codetr.register import BACKBONE_NAME, add_config, register
from mova_expert_codetr.sizes import Sizes

ADAPTER = "mova_expert_codetr.detectron"
SMALL = {
    "PATCH": 16,
    "WIDTH": 16,
    "DEPTH": 3,
    "HEADS": 2,
    "WINDOW": 2,
    "GLOBAL_BLOCKS": (1,),
    "TRAINED_GRID": 4,
    "CHANNELS": 8,
}


class Registry(dict[str, Any]):
    """Stand-in for fvcore's registry: `register` as a function, `in`, and no name taken twice."""

    def register(self, obj: Any) -> None:
        if obj.__name__ in self:
            raise AssertionError(f"{obj.__name__} was already registered")
        self[obj.__name__] = obj


class CfgNode(dict[str, Any]):
    """Stand-in for detectron2's configuration: a dictionary whose keys are attributes."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


@dataclass
class ShapeSpec:
    """Stand-in for detectron2's description of a map."""

    channels: int
    stride: int | None = None


class Backbone(nn.Module):
    """Stand-in for detectron2's base class, which is a module."""


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Stand-in for detectron2, in `sys.modules`: what a backbone touches of its interface, and no more."""
    found = Registry()
    contents: dict[str, dict[str, Any]] = {
        "detectron2": {},
        "detectron2.layers": {"ShapeSpec": ShapeSpec},
        "detectron2.modeling": {"BACKBONE_REGISTRY": found, "Backbone": Backbone},
    }
    for name, attributes in contents.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules.pop(ADAPTER, None)
    yield found
    sys.modules.pop(ADAPTER, None)


@pytest.fixture
def cfg() -> CfgNode:
    return CfgNode(MODEL=CfgNode(CODETR=CfgNode(SMALL)))


def test_without_detectron2_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    assert register() is False
    assert ADAPTER not in sys.modules


def test_a_broken_detectron2_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "modeling.py").write_text("import a_library_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_missing"):
        register()
    sys.modules.pop("detectron2", None)


def test_registering_twice_is_registering_once(registry: Registry) -> None:
    assert register() is True
    assert register() is True
    assert list(registry) == [BACKBONE_NAME]


def test_a_configuration_gets_the_released_sizes() -> None:
    cfg = CfgNode(MODEL=CfgNode())
    add_config(cfg)
    assert isinstance(cfg.MODEL.CODETR, CfgNode)
    sizes = {name.upper(): size for name, size in RELEASED_BACKBONE.items()}
    assert sizes == cfg.MODEL.CODETR


@pytest.mark.parametrize("configured", [True, False])
def test_the_released_sizes_are_built(configured: bool, registry: Registry) -> None:
    register()
    cfg = CfgNode(MODEL=CfgNode())
    if configured:
        add_config(cfg)
    with torch.device("meta"):
        backbone = registry[BACKBONE_NAME](cfg, ShapeSpec(channels=3))
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 310_596_544
    assert backbone.output_shape() == {"p4": ShapeSpec(channels=256, stride=16)}


def test_the_backbone_keeps_what_it_says_of_its_map(registry: Registry, cfg: CfgNode) -> None:
    register()
    backbone = registry[BACKBONE_NAME](cfg, ShapeSpec(channels=3))
    assert isinstance(backbone, Backbone)
    assert backbone.size_divisibility == 16
    with torch.no_grad():
        maps = backbone(torch.zeros(2, 3, 96, 64))
    shapes = backbone.output_shape()
    assert maps.keys() == shapes.keys()
    assert maps["p4"].shape == (2, shapes["p4"].channels, 96 // 16, 64 // 16)


def test_weights_trained_in_detectron2_load_into_the_expert(
    registry: Registry, cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    register()
    torch.manual_seed(0)
    backbone = registry[BACKBONE_NAME](cfg, ShapeSpec(channels=3)).eval()
    detector = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    heads = {"roi_heads.box_predictor.weight": torch.ones(2)}
    torch.save({"model": detector | heads, "iteration": 7}, tmp_path / "model_final.pth")
    monkeypatch.setattr(mova_expert_codetr.expert, "_RELEASED", Sizes())
    source = str(tmp_path / "model_final.pth")
    expert = CoDetrExpert.from_pretrained(
        source, dtype=torch.float32, device=torch.device("cpu"), shrink=None
    )
    picture = torch.rand(1, 3, 80, 80)
    with torch.no_grad():
        expected = backbone(picture)["p4"].flatten(2).transpose(1, 2)
        torch.testing.assert_close(expert(picture).tokens, expected)


@pytest.mark.parametrize(
    ("sizes", "channels", "complaint"),
    [(SMALL, 1, "1 channels"), (SMALL | {"LAYERS": 3}, 3, "LAYERS")],
)
def test_what_cannot_be_built_is_said(
    sizes: dict[str, object], channels: int, complaint: str, registry: Registry
) -> None:
    register()
    cfg = CfgNode(MODEL=CfgNode(CODETR=CfgNode(sizes)))
    with pytest.raises(ConfigError, match=complaint):
        registry[BACKBONE_NAME](cfg, ShapeSpec(channels=channels))
