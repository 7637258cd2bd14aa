"""Weight files as their publishers ship them: one file or many shards, read tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch
from safetensors import safe_open
from torch import Tensor

from mova_core.errors import ExpertLoadError
from mova_core.experts.weights import unreadable

_INDEXES: Final = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_NAMES: Final = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
_SUFFIXES: Final = (".safetensors", ".bin", ".pth", ".pt")
_WRAPPERS: Final = ("state_dict", "model", "module", "teacher")
"""Keys under which training frameworks keep the weights, beside optimisers and notes."""


class WeightFiles(Mapping[str, Tensor]):
    """The tensors of a weight file, or of a folder of shards, by name; each is read when it is asked for.

    Files other than safetensors are mapped into memory and unpickled with `weights_only=True`; of a training
    framework's checkpoint, the state dict it holds is taken. To be used as a context manager.

    Args:
        source: a file, or a folder such as a Hugging Face snapshot.

    Raises:
        ExpertLoadError: there is no weight file, several that no index joins, or one that cannot be read.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = Path(source)
        self._stack = ExitStack()
        self._files: dict[Path, Any] = {}
        self._where: dict[str, Path] = {}
        for path in weight_files(self.source):
            self._files[path] = self._open(path)
            self._where |= dict.fromkeys(self._files[path].keys(), path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.clear()
        self._stack.close()

    def __getitem__(self, name: str) -> Tensor:
        file = self._files[self._where[name]]
        tensor: Tensor = file[name] if isinstance(file, dict) else file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def _open(self, path: Path) -> Any:
        try:
            if path.suffix == ".safetensors":
                return self._stack.enter_context(safe_open(path, framework="pt"))
            return _unwrapped(_unpickled(path), path)
        except ExpertLoadError:
            raise
        except Exception as error:  # the readers raise whatever a broken file provokes
            raise unreadable(path, error) from error


def weight_files(source: Path) -> tuple[Path, ...]:
    """The file, or the shards that belong together in a folder.

    Raises:
        ExpertLoadError: there is none, or several that no index joins.
    """
    if source.is_file():
        return (source,)
    for name in _INDEXES:
        if (source / name).is_file():
            return _sharded(source / name)
    for name in _NAMES:
        if (source / name).is_file():
            return (source / name,)
    found = sorted(path for path in source.glob("*") if path.suffix in _SUFFIXES)
    if len(found) == 1:
        return (found[0],)
    raise ExpertLoadError(
        "no weights to read",
        value=f"{source}: {', '.join(path.name for path in found) or 'no weight file'}",
        expected=f"a file, or a folder with one of {', '.join(_INDEXES + _NAMES)}",
        hint="Name the file itself.",
    )


def _sharded(index: Path) -> tuple[Path, ...]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        shards = tuple(sorted(index.parent / Path(name).name for name in names))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExpertLoadError(
            "the index of the shards cannot be read",
            value=str(index),
            expected="a JSON object with weight_map",
        ) from error
    lost = [path.name for path in shards if not path.is_file()]
    if lost:
        raise ExpertLoadError(
            "shards are missing",
            value=", ".join(lost),
            expected=f"all that {index.name} names",
            hint="Fetch it again.",
        )
    return shards


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError) as error:
        if "mmap" not in str(error):
            raise
    return torch.load(
        path, map_location="cpu", weights_only=True
    )  # written before torch 1.6: cannot be mapped


def _unwrapped(state: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    tensors = (
        {str(k): v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    )
    if not tensors or len(tensors) != len(state):
        raise ExpertLoadError(
            f"weight file {str(path)!r} holds more than named tensors",
            value=type(state).__name__,
            expected="a state dict, alone or under " + ", ".join(_WRAPPERS),
        )
    return tensors
