"""A pack on disk: one safetensors file of weights by name, its metadata holding the numbers to build it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from mova_core.errors import CheckpointError
from mova_core.fusion.packs import ExpertPack
from mova_core.fusion.states import check_fit

FORMAT = "mova-pack-1"
_NUMBERS = ("width", "channels", "heads", "depth")


def save_pack(pack: ExpertPack, path: str | Path, notes: Mapping[str, str] | None = None) -> None:
    """Write a pack; the file appears whole or not at all.

    Args:
        pack: what to write.
        path: where, by custom `packs/<id>.safetensors`.
        notes: further metadata, such as the fingerprint of the core that the pack was trained against.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    metadata = {**(notes or {}), "format": FORMAT, **{name: str(getattr(pack, name)) for name in _NUMBERS}}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in pack.state_dict().items()}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, partial, metadata)
        partial.replace(target)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink()
        raise CheckpointError(
            "a pack could not be written",
            value=str(target),
            expected=f"a writable place with room ({error})",
        ) from error


def load_pack(path: str | Path) -> ExpertPack:
    """Read a pack that `save_pack` wrote, in the dtype in which it was stored.

    Args:
        path: the file.

    Returns:
        The pack, on the CPU.

    Raises:
        CheckpointError: if the file is missing, corrupt, no pack, or does not hold what its metadata says.
    """
    notes = pack_notes(path)
    try:
        numbers = {name: int(notes[name]) for name in _NUMBERS}
    except (KeyError, ValueError) as error:
        raise _not_a_pack(path, "numbers for " + ", ".join(_NUMBERS)) from error
    state = load_file(path)
    if min(numbers.values()) < 1 or numbers["depth"] > len(state):
        raise _not_a_pack(path, "numbers that can be true")
    with torch.device("meta"):
        pack = ExpertPack(**numbers)
    check_fit(pack, state, what=f"the pack {path}")
    pack.load_state_dict(state, assign=True)
    return pack


def pack_notes(path: str | Path) -> dict[str, str]:
    """The metadata of a pack file, read without its weights.

    Raises:
        CheckpointError: if the file is missing, corrupt or no pack.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes: dict[str, str] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "a pack could not be read",
            value=str(path),
            expected=f"a whole safetensors file ({error})",
            hint="Fetch or train it again.",
        ) from error
    if notes.get("format") != FORMAT:
        raise _not_a_pack(path, f"format {FORMAT}")
    return notes


def _not_a_pack(path: str | Path, expected: str) -> CheckpointError:
    return CheckpointError(
        "a safetensors file is not a pack",
        value=str(path),
        expected=f"metadata with {expected}",
        hint="Packs are the files in a model's packs/ folder.",
    )
