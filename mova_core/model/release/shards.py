"""The files that a release comes in, of which one is open at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mova_core.errors import CheckpointError
from mova_core.experts.files import WeightFiles, weight_files
from mova_core.model.release.writing import DTYPES, TensorSpec

_LONGEST_HEADER: Final = 100 * 2**20
"""Bytes; what the format's own reader allows."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a release.

    Args:
        path: where it is.
        tensors: what it holds, in its order.
        header: a safetensors file's header as it stands there; empty for a pickled file.
    """

    path: Path
    tensors: Mapping[str, TensorSpec]
    header: bytes = b""

    def read(self) -> Iterator[tuple[str, WeightFiles]]:
        """Names with the open file they can be read from, which closes at the end."""
        with WeightFiles(self.path) as file:
            for name in self.tensors:
                yield name, file


def read_shards(folder: Path) -> tuple[Shard, ...]:
    """The files of a release, by their headers.

    No weight is read of a file that can be mapped into memory; a pickled file of before PyTorch 1.6 cannot.

    Raises:
        ExpertLoadError: there are none, one is missing, or one cannot be read.
        CheckpointError: two files hold a tensor of one name.
    """
    shards = tuple(_opened(path) for path in weight_files(folder))
    seen: dict[str, Path] = {}
    for shard in shards:
        for name in shard.tensors:
            if name in seen:
                raise CheckpointError(
                    "two files hold one tensor",
                    value=f"{name} in {seen[name].name} and {shard.path.name}",
                    expected="each tensor once",
                    hint="Remove the file that does not belong to this release.",
                )
            seen[name] = shard.path
    return shards


def _opened(path: Path) -> Shard:
    with WeightFiles(path) as file:  # refuses what is corrupt, or holds more than tensors
        if path.suffix == ".safetensors":
            return _from_header(path)
        return Shard(path, {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in file.items()})


def _from_header(path: Path) -> Shard:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, _LONGEST_HEADER))
    entries = json.loads(header)
    entries.pop("__metadata__", None)
    unknown = sorted({entry["dtype"] for entry in entries.values()} - DTYPES.keys())
    if unknown:
        raise CheckpointError(
            "a file holds numbers of a kind that no release has",
            value=f"{path.name}: {', '.join(unknown)}",
            expected=" or ".join(DTYPES),
        )
    placed = sorted(entries.items(), key=lambda entry: entry[1]["data_offsets"])
    tensors = {name: TensorSpec(DTYPES[e["dtype"]], tuple(e["shape"])) for name, e in placed}
    return Shard(path, tensors, header)
