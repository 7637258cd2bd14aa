"""What a language model has read of prompts that begin alike, kept from one question to the next.

What stands before the image (a system turn, the pool's descriptions where the prompt lists them first) is the
same for every question. A causal model reads it the same way whatever follows, so its keys and values are
computed once.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from mova_core.routing.labels import Path

if TYPE_CHECKING:
    from transformers import Cache

State: TypeAlias = tuple[Hashable, ...]
"""Equal while a model's weights, and what is switched on of them, are the same."""

KEPT = 4
"""Beginnings that are held at a time: a service has a few pools, and each takes memory on the device."""


class Beginnings:
    """Keys and values of texts, by their tokens; all are dropped when weights change.

    Args:
        bound: the most texts held, beyond which those used longest ago are dropped.
    """

    def __init__(self, bound: int = KEPT) -> None:
        self._bound = bound
        self._state: State = ()
        self._kept: OrderedDict[Path, Cache] = OrderedDict()

    def cache(self, text: Path, rows: int, state: State, read: Callable[[], Cache]) -> Cache:
        """A copy of what was read of a text, to read on from.

        Args:
            text: its tokens.
            rows: for how many rows.
            state: of the model now.
            read: reads the text in one row; called if it is not held for this state.
        """
        if state != self._state:
            self._kept.clear()
            self._state = state
        if text not in self._kept:
            self._kept[text] = read()
        self._kept.move_to_end(text)
        while len(self._kept) > self._bound:
            self._kept.popitem(last=False)
        own = copy.deepcopy(self._kept[text])  # reading on changes it
        if rows > 1:
            own.batch_repeat_interleave(rows)
        return own

    def forget(self) -> None:
        """Drop everything."""
        self._kept.clear()


def model_state(model: nn.Module, device: torch.device) -> State:
    """What keys and values depend on besides the text.

    Weights count by where they are and by how often autograd saw them change in place: optimisers,
    `load_state_dict` and moves to another device or dtype are noticed, writing through `.data` is not. LoRA
    layers of peft count with what is switched on, and autocast counts with its dtype.
    """
    autocast = torch.is_autocast_enabled(device.type)
    found: list[Hashable] = [torch.get_autocast_dtype(device.type) if autocast else None]
    module: Any  # LoRA layers are known by what they have: peft need not be there
    for module in model.modules():
        for weight in module._parameters.values():
            if weight is not None:
                found.append((weight.data_ptr(), 0 if weight.is_inference() else weight._version))
        if hasattr(type(module), "merged_adapters"):
            found.append((bool(module.disable_adapters), *module.active_adapters, *module.merged_adapters))
    return tuple(found)
