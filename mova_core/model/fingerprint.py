"""The core fingerprint: what a pack was trained against.

It covers the adapter's core, the base encoder and the answering language model. A pack that carries another
one would load and give nonsense, so it is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, whatever the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def core_fingerprint(
    core: Mapping[str, Tensor], answer: Mapping[str, Tensor], base: str, language: str
) -> str:
    """The fingerprint of a model's core.

    Args:
        core: the adapter without packs, as stored.
        answer: the answering LoRA, as stored; empty without one.
        base: name and revision of the base encoder.
        language: source of the language model, or a digest of its weights where the checkpoint holds them.
    """
    joined = "\n".join((state_digest(core), state_digest(answer), base, language))
    return hashlib.sha256(joined.encode()).hexdigest()[:32]
