"""The core fingerprint: what a pack was trained against.

It covers the adapter's core, the base encoder and the answering language model. A pack that carries another
one would load and give nonsense, so it is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mova_core.experts.files import WeightFiles, weight_files


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, whatever the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """`state_digest` of the safetensors files of a folder, with one tensor in memory at a time.

    Raises:
        ExpertLoadError: there are no weights, or they cannot be read.
    """
    return state_digest(_OneByOne(weight_files(folder)))


class _OneByOne(Mapping[str, Tensor]):
    """Tensors of some files, each of which is open only while a tensor of it is in use.

    A file that stays open stays mapped, and what was read of it counts as memory in use.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files: dict[str, Path] = {}
        for file in files:
            with WeightFiles(file) as tensors:
                self._files |= dict.fromkeys(tensors, file)

    def __getitem__(self, name: str) -> Tensor:
        with WeightFiles(self._files[name]) as tensors:
            return tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def core_fingerprint(
    core: Mapping[str, Tensor], answer: Mapping[str, Tensor], base: str, language: str
) -> str:
    """The fingerprint of a model's core.

    Args:
        core: the adapter without packs, as stored.
        answer: the answering LoRA, as stored; empty without one.
        base: name of the base encoder, with its revision where the checkpoint brings its weights along.
        language: source of the language model, or a digest of its weights where the checkpoint holds them.
    """
    joined = "\n".join((state_digest(core), state_digest(answer), base, language))
    return hashlib.sha256(joined.encode()).hexdigest()[:32]
