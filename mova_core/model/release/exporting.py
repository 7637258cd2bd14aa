"""Back from an imported checkpoint to the released layout, bit for bit where nothing was trained since.

Files that were pickled come back as safetensors of the same tensors.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mova_core.errors import CheckpointError, ExpertLoadError
from mova_core.experts.files import WeightFiles
from mova_core.model.parts.disk import require_space
from mova_core.model.parts.progress import Progress, SilentProgress
from mova_core.model.release.importing import LAYOUT
from mova_core.model.release.naming import Place, ReleaseMap
from mova_core.model.release.plan import LANGUAGE
from mova_core.model.release.source import read_json
from mova_core.model.release.writing import TensorFile, TensorSpec, header_bytes


class _Checkpoint:
    """The tensors of a checkpoint by their places; to be closed by the stack it is given.

    Args:
        folder: the checkpoint.
        stack: closes the files.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._files: dict[str, Mapping[str, Tensor]] = {}

    def tensor(self, places: tuple[Place, ...]) -> Tensor:
        """The tensor that went to those places: one, or the rows that several packs hold."""
        found = [self._file(place.file)[place.name] for place in places]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _file(self, name: str) -> Mapping[str, Tensor]:
        if name not in self._files:
            self._files[name] = self._stack.enter_context(WeightFiles(self._folder / name))
        return self._files[name]


def export_release(directory: Path, out: Path, *, progress: Progress | None = None) -> Path:
    """Write the released layout of a checkpoint that was imported from one.

    Args:
        directory: the checkpoint; weights may have been trained since, names and shapes must be the same.
        out: the folder to make; it appears whole or not at all.
        progress: hears of the steps.

    Returns:
        `out`.

    Raises:
        CheckpointError: it was not imported, a weight is gone, or `out` is taken or cannot be written.
        PartsError: there is not enough disk space.
    """
    tell = progress or SilentProgress()
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise CheckpointError(
            "there is something in the way", value=str(out), expected="a folder that is empty or not there"
        )
    if not (directory / LAYOUT).is_file():
        raise CheckpointError(
            "this checkpoint does not know a released layout",
            value=str(directory),
            expected=f"a checkpoint made by `mova convert`, with {LAYOUT}",
        )
    shards = read_json(directory / LAYOUT)["shards"]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        try:
            _write(directory, made, shards, tell)
            if out.exists():
                out.rmdir()
            made.rename(out)
        except OSError as error:
            raise CheckpointError(
                "the release cannot be written", value=str(out), expected=f"a writable place ({error})"
            ) from error
    return out


def _write(directory: Path, made: Path, shards: list[dict[str, Any]], tell: Progress) -> None:
    names = ReleaseMap([key for shard in shards for key in shard["tensors"]])
    for file in sorted((directory / "release" / "files").iterdir()):
        shutil.copyfile(file, made / file.name)
    weights: dict[str, str] = {}
    size = 0
    for number, shard in enumerate(shards, start=1):
        tell.say(f"file {number} of {len(shards)}: {shard['file']}")
        with ExitStack() as stack:
            checkpoint = _Checkpoint(directory, stack)
            places = {key: names.places(key, LANGUAGE) for key in shard["tensors"]}
            size += _write_shard(made / shard["file"], shard, places, checkpoint)
        weights |= dict.fromkeys(shard["tensors"], shard["file"])
    if len(shards) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weights.items()))}
        (made / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _write_shard(
    path: Path, shard: Mapping[str, Any], places: Mapping[str, tuple[Place, ...]], checkpoint: _Checkpoint
) -> int:
    """One file; its header is the original's wherever that still holds."""
    tensors = {key: _spec(checkpoint, key, own) for key, own in places.items()}
    size = sum(spec.nbytes for spec in tensors.values())
    require_space(path.parent, size)
    original = shard["header"].encode() if shard["header"] else b""
    header = original if original and _describes(original, tensors) else None
    with TensorFile(path, tensors, {"format": "pt"}, header=header) as file:
        for key, own in places.items():
            file.put(key, checkpoint.tensor(own))
    return size


def _spec(checkpoint: _Checkpoint, key: str, places: tuple[Place, ...]) -> TensorSpec:
    try:
        tensor = checkpoint.tensor(places)
    except (KeyError, ExpertLoadError) as error:
        raise CheckpointError(
            "a weight of the release is gone from the checkpoint",
            value=key,
            expected=f"{places[0].name} in {places[0].file}" if places else "a known name",
        ) from error
    return TensorSpec(tensor.dtype, tuple(tensor.shape))


def _describes(header: bytes, tensors: Mapping[str, TensorSpec]) -> bool:
    """Whether a header says of these tensors what we should say: kinds, shapes and places."""
    stated, ours = (json.loads(text) for text in (header, header_bytes(tensors, {})))
    stated.pop("__metadata__", None)
    ours.pop("__metadata__", None)
    return bool(stated == ours)
