"""timm's networks without their heads: by name, from a folder's description, and with its weights."""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import init_empty_weights
from torch import nn

from mova_core.errors import ExpertLoadError
from mova_core.experts.layouts import Layout, State, fill


def is_described(folder: Path) -> bool:
    """Whether a folder has a `config.json` as timm's `save_for_hf` and `push_to_hf_hub` write it."""
    try:
        stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stated, dict) and isinstance(stated.get("architecture"), str)


def named(name: str, **arguments: Any) -> nn.Module:
    """A network with random weights, its head included.

    Args:
        name: as timm lists it, such as "vit_small_patch14_dinov2" or "vit_small_patch14_dinov2.lvd142m".
        arguments: for timm's `create_model`.

    Raises:
        ExpertLoadError: timm has no such model, or cannot build it.
    """
    if not timm.is_model(name):
        architecture = name.partition(".")[0]
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        raise ExpertLoadError(
            "timm has no model of this name",
            value=name,
            expected=" or ".join(near) or None,
            hint="`timm.list_models()` lists all.",
        )
    return _created(name, name, **arguments)


def described(folder: Path) -> nn.Module:
    """The network that a folder's `config.json` describes, with random weights, its head included.

    Raises:
        ExpertLoadError: the description is not timm's, or timm cannot build it.
    """
    if not is_described(folder):
        raise ExpertLoadError(
            "the folder does not describe a timm model",
            value=str(folder / "config.json"),
            expected="a config.json with `architecture`, as timm's save_for_hf writes it",
        )
    return _created(f"local-dir:{folder}", str(folder))


def loaded(folder: Path, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The network of a folder with its weights, without its head.

    Args:
        folder: with `config.json` and the weights.
        dtype: of its floating-point tensors.
        device: where it goes.

    Raises:
        ExpertLoadError: the network cannot be built, or the weights do not fit; lists what is missing,
            surplus or of another shape.
    """
    with init_empty_weights(include_buffers=False):
        network = described(folder)
    # The file is the whole model, so the head is dropped only after every tensor has been accounted for.
    layout = Layout(
        "timm", mark=next(iter(network.state_dict())), convert=lambda state: _read(state, network)
    )
    fill(network, folder, (layout,), dtype=dtype, device=device)
    return headless(network).to(device=device, dtype=dtype)


def headless(network: nn.Module) -> nn.Module:
    """The network without classifier and, where it allows that, without what pools for it."""
    try:
        network.reset_classifier(0, "")  # type: ignore[operator]
    except AssertionError:  # how timm's models say that they cannot do without their pooling
        network.reset_classifier(0)  # type: ignore[operator]
    return network.eval()


def settings(network: nn.Module) -> dict[str, Any]:
    """What timm knows of the weights: input size, normalisation, licence and so on."""
    return dict(network.pretrained_cfg)  # type: ignore[arg-type]


def resize(network: nn.Module, size: tuple[int, int]) -> None:
    """Make a network of one input size read another one; most have no such size, and need nothing.

    Args:
        network: changed in place; its position tables are interpolated as timm does it.
        size: (h, w) in pixels.

    Raises:
        ExpertLoadError: the network cannot be changed.
    """
    stated = settings(network)
    native = tuple(stated["input_size"][1:])
    if not stated.get("fixed_input_size"):
        return
    if not hasattr(network, "set_input_size"):
        if size == native:
            return
        raise ExpertLoadError(
            f"{stated['architecture']} reads pictures of one size only",
            value=f"size {list(size)}",
            expected=f"size {list(native)}",
            hint="Correct `size` in the card's [input].",
        )
    network.set_input_size(img_size=size)  # type: ignore[operator]


def _created(name: str, shown: str, **arguments: Any) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    except Exception as error:  # timm raises whatever a wrong argument provokes
        raise ExpertLoadError(
            f"timm cannot build {shown}", value=f"{type(error).__name__}: {error}"
        ) from error
    channels = settings(network)["input_size"][0]
    if channels != 3:
        raise ExpertLoadError(f"{shown} reads no RGB pictures", value=f"{channels} channels", expected="3")
    return network


def _read(state: State, network: nn.Module) -> State:
    """The tensors by the network's present names: timm's own reading of older files of the same model."""
    reader = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return dict(reader(state, network)) if reader else state
