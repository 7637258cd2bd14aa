"""Back from an imported checkpoint to the released layout, bit for bit where nothing was trained since.

Files that were pickled come back as safetensors of the same tensors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from mova_core.errors import CheckpointError, ExpertLoadError
from mova_core.experts.files import WeightFiles
from mova_core.model.parts.disk import require_space
from mova_core.model.parts.progress import Progress, SilentProgress
from mova_core.model.release.layout import FILES, ReleaseLayout, ShardLayout, appearing, read_layout
from mova_core.model.release.naming import (
    ASIDE,
    BASE,
    CORE,
    EXPERTS,
    TEXT_FILE,
    Place,
    ReleaseMap,
    pack_file,
    tower_file,
)
from mova_core.model.release.plan import LANGUAGE
from mova_core.model.release.writing import TensorFile, TensorSpec, header_bytes

_INDEX = "model.safetensors.index.json"
_NOT_RELEASED = ("answer", "router")
_COMPUTED_HERE = ("pooler.",)
"""Weights that transformers adds to a text encoder, and nobody reads."""

Places = Mapping[str, tuple[Place, ...]]


class _Checkpoint:
    """The tensors of a checkpoint by their places.

    Args:
        folder: the checkpoint.
        stack: closes the files.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._files: dict[str, Mapping[str, Tensor]] = {}

    def tensor(self, key: str, places: tuple[Place, ...]) -> Tensor:
        """The tensor that went to those places: one, or the rows that several packs hold.

        Raises:
            CheckpointError: it is not there.
        """
        try:
            found = [self.file(place.file)[place.name] for place in places]
        except (KeyError, ExpertLoadError) as error:
            raise CheckpointError(
                "a weight of the release is gone from the checkpoint",
                value=key,
                expected=f"{places[0].name} in {places[0].file}",
            ) from error
        return found[0] if len(found) == 1 else torch.cat(found)

    def file(self, name: str) -> Mapping[str, Tensor]:
        """An open file, or all files of a folder."""
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
        CheckpointError: it was not imported, a weight is gone, it holds more than the released layout can, or
            `out` is taken or cannot be written.
        PartsError: there is not enough disk space.
    """
    layout = read_layout(directory)
    names = ReleaseMap([key for shard in layout.shards for key in shard.tensors])
    places = {key: names.places(key, LANGUAGE) for shard in layout.shards for key in shard.tensors}
    _check_all_goes_back(directory, places)
    with appearing(out, "release") as made:
        _write(directory, made, layout, places, progress or SilentProgress())
    return out


def _check_all_goes_back(directory: Path, places: Places) -> None:
    """Refuse what would be left behind, and layouts that name what no release has.

    Raises:
        CheckpointError: naming it.
    """
    unknown = [key for key, own in places.items() if not own]
    if unknown:
        raise CheckpointError("the released layout names a weight that no release has", value=unknown[0])
    packs = {f"packs/{path.name}" for path in (directory / "packs").glob("*.safetensors")}
    extra = sorted(packs - {pack_file(id) for id in EXPERTS})
    extra += [name for name in _NOT_RELEASED if (directory / name).is_dir()]
    if extra:
        raise CheckpointError(
            "the released layout has no place for a part of this checkpoint",
            value=", ".join(extra),
            expected="core, language model, towers and the seven packs",
            hint="Merge LoRAs into the language model, or export a checkpoint without it.",
        )
    goes = {(place.file, place.name) for own in places.values() for place in own}
    files = (CORE, TEXT_FILE, ASIDE, LANGUAGE, *map(pack_file, EXPERTS), *map(tower_file, (BASE, *EXPERTS)))
    with ExitStack() as stack:
        checkpoint = _Checkpoint(directory, stack)
        held = [(f, n) for f in files if (directory / f).exists() for n in checkpoint.file(f)]
    left = [name for file, name in held if (file, name) not in goes and not name.startswith(_COMPUTED_HERE)]
    if left:
        raise CheckpointError(
            "the released layout names no file for a weight of the checkpoint",
            value=left[0],
            expected="every weight in it",
            hint="Convert the release again.",
        )


def _write(directory: Path, made: Path, layout: ReleaseLayout, places: Places, tell: Progress) -> None:
    shutil.copytree(directory / FILES, made, dirs_exist_ok=True)
    size = 0
    for number, shard in enumerate(layout.shards, start=1):
        tell.say(f"file {number} of {len(layout.shards)}: {shard.file}")
        with ExitStack() as stack:
            size += _write_shard(made / shard.file, shard, places, _Checkpoint(directory, stack))
    if len(layout.shards) > 1 and not (made / _INDEX).exists():
        weights = {key: shard.file for shard in layout.shards for key in shard.tensors}
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weights.items()))}
        (made / _INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _write_shard(path: Path, shard: ShardLayout, places: Places, checkpoint: _Checkpoint) -> int:
    """One file; its header is the original's wherever that still holds."""
    tensors = {}
    for key in shard.tensors:
        tensor = checkpoint.tensor(key, places[key])
        tensors[key] = TensorSpec(tensor.dtype, tuple(tensor.shape))
    size = sum(spec.nbytes for spec in tensors.values())
    require_space(path.parent, size)
    original = (shard.header or "").encode()
    header = original if _describes(original, tensors) else None
    with TensorFile(path, tensors, {"format": "pt"}, header=header) as file:
        for key in tensors:
            file.put(key, checkpoint.tensor(key, places[key]))
    return size


def _describes(header: bytes, tensors: Mapping[str, TensorSpec]) -> bool:
    """Whether a header says of these tensors what we should say: kinds, shapes and places."""
    try:
        stated, ours = json.loads(header), json.loads(header_bytes(tensors, {}))
    except (ValueError, RecursionError):
        return False
    if isinstance(stated, dict):
        stated.pop("__metadata__", None)
    ours.pop("__metadata__")
    return bool(stated == ours)
