"""Weights on disk as publishers leave them, for tests of loading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


def one_file(state: Mapping[str, Tensor], folder: Path) -> Path:
    """Writes `model.safetensors`.

    Args:
        state: tensors by name; they may share memory.
        folder: where.

    Returns:
        The folder.
    """
    _save(state, folder / "model.safetensors")
    return folder


def sharded(state: Mapping[str, Tensor], folder: Path, *, pickled: bool = False) -> Path:
    """Writes two shards, each with every second tensor, and transformers' index of them.

    Args:
        state: tensors by name; they may share memory.
        folder: where.
        pickled: as `pytorch_model-*.bin` instead of safetensors.

    Returns:
        The folder.
    """
    stem, end = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    where = {name: f"{stem}-{place % 2 + 1}.{end}" for place, name in enumerate(sorted(state))}
    for file in sorted(set(where.values())):
        held = {name: tensor for name, tensor in state.items() if where[name] == file}
        if pickled:
            torch.save(held, folder / file)
        else:
            _save(held, folder / file)
    (folder / f"{stem}.{end}.index.json").write_text(json.dumps({"weight_map": where}), encoding="utf-8")
    return folder


def _save(state: Mapping[str, Tensor], file: Path) -> None:
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, file)
