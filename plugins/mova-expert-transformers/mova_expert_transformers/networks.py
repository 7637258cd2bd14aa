"""transformers' vision networks, found from a configuration."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING

from mova_core.errors import ExpertLoadError


def configuration(folder: Path) -> PreTrainedConfig:
    """What a folder's `config.json` says, of a vision model or of a vision tower in a larger one.

    Args:
        folder: such as a snapshot of a repository of the hub.

    Raises:
        ExpertLoadError: there is no such file, or it is of no model that transformers itself brings.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever a broken file provokes
        raise ExpertLoadError(
            "the folder describes no model of transformers",
            value=f"{folder / 'config.json'}: {str(error).partition(chr(10))[0]}",
            expected="a config.json with a `model_type` of this version; remote code is never run",
        ) from error
    return vision_part(config)


def vision_part(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the vision tower, where there are several towers; else the configuration."""
    tower = getattr(config, "vision_config", None)
    return tower if isinstance(tower, PreTrainedConfig) else config


def built(config: PreTrainedConfig) -> PreTrainedModel:
    """The network of a configuration, with random weights.

    Raises:
        ExpertLoadError: it reads no pictures, or transformers cannot build it.
    """
    kind, arguments = class_of(config)
    try:
        network: PreTrainedModel = kind(headless(config), **arguments)
    except Exception as error:  # networks raise whatever a wrong size provokes
        raise ExpertLoadError(
            f"transformers cannot build {kind.__name__}", value=f"{type(error).__name__}: {error}"
        ) from error
    return network


def is_described(folder: Path) -> bool:
    """Whether a folder has a `config.json` of transformers."""
    try:
        stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stated, dict) and "model_type" in stated


def class_of(config: PreTrainedConfig) -> tuple[Any, dict[str, Any]]:
    """The class of a network, and arguments that leave out its pooling.

    Raises:
        ExpertLoadError: the model reads no pictures.
    """
    saved_as = (getattr(config, "architectures", None) or [""])[0]
    mapping: Any = MODEL_FOR_BACKBONE_MAPPING if saved_as.endswith("Backbone") else MODEL_MAPPING
    kind: Any = mapping.get(type(config), None)
    kind = kind[0] if isinstance(kind, (tuple, list)) else kind
    if kind is None:  # a tower that transformers can build, and lists only with its model
        kind = getattr(transformers, type(config).__name__.removesuffix("Config") + "Model", None)
    if getattr(kind, "main_input_name", None) != "pixel_values":
        raise ExpertLoadError(
            "the model reads no pictures, or has no vision tower that stands alone",
            value=f"model_type {config.model_type!r}",
            expected="a vision backbone, or a model with a `vision_config`",
        )
    poolless = {"add_pooling_layer": False} if "add_pooling_layer" in _arguments(kind) else {}
    return kind, dict(poolless)


def headless(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration without the pooling that SigLIP's configuration asks for."""
    if getattr(config, "vision_use_head", False):
        config.vision_use_head = False
    return config


def _arguments(function: Callable[..., Any]) -> Iterable[str]:
    return inspect.signature(function).parameters
