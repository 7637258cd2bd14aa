"""Reading weight files so that a bad one is named, never half loaded and never executed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mova_core.errors import ExpertLoadError

_NAMES_SHOWN: Final = 5


def read_weights(path: str | Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a file of named tensors onto the CPU.

    Args:
        path: a `.safetensors` file, or a `.bin`/`.pth`/`.pt` file, of which only tensors are unpickled.
        sha256: digest the file must have; None skips the check.

    Returns:
        The tensors by name.

    Raises:
        ExpertLoadError: the file is missing, truncated, corrupt, another one than `sha256` says, or holds
            anything but named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ExpertLoadError(
            f"weight file {str(path)!r} does not exist", expected="a .safetensors or .pth file"
        )
    if sha256:
        check_sha256(path, sha256)
    try:
        if path.suffix == ".safetensors":
            state: object = load_file(path, device="cpu")
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise whatever a broken file provokes
        raise unreadable(path, error) from error
    return _named_tensors(state, path)


def unreadable(path: Path, error: Exception) -> ExpertLoadError:
    """The error that names a weight file which a reader refused."""
    return ExpertLoadError(
        f"weight file {str(path)!r} cannot be read; it is corrupt, cut short, or holds more than tensors",
        value=f"{type(error).__name__}: {str(error).partition('. ')[0]}",
        expected="a whole file of named tensors",
        hint="Delete it and fetch it again.",
    )


def check_sha256(path: Path, sha256: str) -> None:
    """Refuse a weight file whose content is not the one a card names.

    Raises:
        ExpertLoadError: another digest, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ExpertLoadError(
            f"weight file {str(path)!r} cannot be read", value=str(error.strerror)
        ) from error
    if digest != sha256:
        raise ExpertLoadError(
            f"weight file {str(path)!r} is corrupt, cut short or another one",
            value=f"sha256 {digest}",
            expected=f"sha256 {sha256}",
            hint="Delete it and fetch it again.",
        )


def load_strict(module: nn.Module, state: Mapping[str, Tensor], *, source: str, assign: bool = False) -> None:
    """Fill a module with weights: every name must be there, none may be left over, every shape must fit.

    The module is untouched unless everything fits.

    Args:
        module: the module to fill.
        state: tensors by the module's own names.
        source: where the tensors come from, for the error.
        assign: put the given tensors in place of the module's own, in their dtype and on their device; copies
            the values into the module's own tensors otherwise.

    Raises:
        ExpertLoadError: lists missing names, surplus names and differing shapes.
    """
    own = module.state_dict()
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {label} ({some(names)})"
        for label, names in (
            ("missing", sorted(own.keys() - state.keys())),
            ("surplus", sorted(state.keys() - own.keys())),
            ("of another shape", wrong),
        )
        if names
    ]
    if problems:
        raise ExpertLoadError(
            f"the weights of {source} do not fit {type(module).__name__}: {', '.join(problems)}",
            expected=f"exactly its {len(own)} tensors",
            hint="Check that the card's weights belong to its factory.",
        )
    module.load_state_dict(dict(state), strict=True, assign=assign)


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = len(listed) - _NAMES_SHOWN
    return ", ".join(listed[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _named_tensors(state: object, path: Path) -> dict[str, Tensor]:
    if isinstance(state, Mapping):
        tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
        if len(tensors) == len(state):
            return tensors
    raise ExpertLoadError(
        f"weight file {str(path)!r} holds more than named tensors",
        value=some(map(str, state)) if isinstance(state, Mapping) else type(state).__name__,
        expected="one flat mapping of names to tensors",
    )
