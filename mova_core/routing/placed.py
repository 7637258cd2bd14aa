"""Where a part of a language model computes, and with which attention, however the model was loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

TREE_ATTENTION = ("eager", "sdpa")
"""Implementations of attention that take a mask of our own."""


def execution_device(module: nn.Module) -> torch.device:
    """The device on which a module takes its inputs and gives its outputs.

    A layer that accelerate keeps in memory or on disk until it is needed has weights without a device; its
    hook knows where they will be brought.
    """
    hook = getattr(module, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    if device is not None:
        return torch.device(device)
    return next((p.device for p in module.parameters()), torch.device("cpu"))


@contextmanager
def tree_attention(model: PreTrainedModel) -> Iterator[None]:
    """Runs the body with an attention that takes any mask, then restores the model's own.

    Flash attention knows causal masks only, and branches side by side are not causal. The layers look their
    attention up in every pass, so a pass can have another one. A model that cannot be switched keeps its own
    (`can_read_trees` says so beforehand).
    """
    configs = [config for config in _configs(model) if config._attn_implementation not in TREE_ATTENTION]
    before = [config._attn_implementation for config in configs]
    wanted = "sdpa" if model._supports_sdpa else "eager"
    try:
        for config in configs:
            config._attn_implementation_internal = wanted
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name


def can_read_trees(model: PreTrainedModel) -> bool:
    """Whether `tree_attention` gives the model an attention that takes a mask of our own."""
    own = all(config._attn_implementation in TREE_ATTENTION for config in _configs(model))
    return own or bool(model._can_set_attn_implementation())


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """The configurations that the text layers look their attention up in, each once."""
    found = (model.config, model.config.get_text_config())
    return list({id(config): config for config in found}.values())
