"""Writing safetensors files tensor by tensor, in any order.

The library's own writer wants all tensors of a file at once; a file is made here as large as it will be, and
each tensor is put in its place when it comes by. Format: github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import torch
from torch import Tensor

DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Element types by their names in the format."""

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNED: Final = 8


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor without its values.

    Args:
        dtype: its element type.
        shape: its sizes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        count = 1
        for size in self.shape:
            count *= size
        return count * self.dtype.itemsize

    def row(self) -> TensorSpec:
        """One row of it, which keeps the dimension."""
        return TensorSpec(self.dtype, (1, *self.shape[1:]))


def header_bytes(tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """The header of a file that holds these tensors one after the other, without its length."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, spec in tensors.items():
        begin, end = end, end + spec.nbytes
        entries[name] = {"dtype": _NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % _ALIGNED)


class TensorFile:
    """A safetensors file whose tensors are put in one by one; to be used as a context manager.

    Args:
        path: the file; its folder is made.
        tensors: what it will hold, in the order it is to lie in.
        metadata: text to keep with it.
        header: the header to write in place of one that is made; it must describe the same tensors.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, TensorSpec],
        metadata: Mapping[str, str],
        *,
        header: bytes | None = None,
    ) -> None:
        self.tensors = dict(tensors)
        header = header_bytes(self.tensors, metadata) if header is None else header
        self._begin: dict[str, int] = {}
        end = 8 + len(header)
        for name, spec in self.tensors.items():
            self._begin[name] = end
            end += spec.nbytes
        self._header = len(header)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w+b")
        self._file.write(len(header).to_bytes(8, "little") + header)
        self._file.truncate(end)  # a disk without room says so when it is written to

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, name: str, tensor: Tensor) -> None:
        """Write one tensor.

        Raises:
            ValueError: it is not of the type and shape that the header says.
        """
        spec = self.tensors[name]
        if (tensor.dtype, tuple(tensor.shape)) != (spec.dtype, spec.shape):
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {spec}")
        self._file.seek(self._begin[name])
        self._file.write(raw_bytes(tensor))

    def flush(self) -> None:
        """Make what was put in readable to others."""
        self._file.flush()

    def describe(self, metadata: Mapping[str, str]) -> None:
        """Replace the metadata by one whose text is as long.

        Raises:
            ValueError: it is not.
        """
        header = header_bytes(self.tensors, metadata)
        if len(header) != self._header:
            raise ValueError("the header would change its length")
        self._file.seek(8)
        self._file.write(header)


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, copied only if it does not lie in one piece."""
    flat: memoryview = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return flat
