"""Tensors in memory that two processes share.

The memory has no name: it lives as long as somebody has it open or mapped, and the kernel takes it back when
the last one has gone, however that came about. So nothing is left over, not even by a process that is killed.
"""

from __future__ import annotations

import os
import tempfile

import torch
from torch import Tensor

from mova_core.experts.isolation.messages import DTypeName, TensorHeader

_DTYPES: dict[DTypeName, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


def dtype_of(name: DTypeName) -> torch.dtype:
    """The dtype of that name."""
    return _DTYPES[name]


def dtype_name(dtype: torch.dtype) -> DTypeName:
    """The name of a dtype.

    Raises:
        TypeError: tensors of it are not passed between processes.
    """
    for name, known in _DTYPES.items():
        if known == dtype:
            return name
    raise TypeError(f"tensors of {dtype} are not passed between processes, only {', '.join(_DTYPES)}")


def share(tensor: Tensor) -> tuple[TensorHeader, int]:
    """Copy a tensor, of any device and layout, into new shared memory: the only copy on its way.

    Returns:
        What the memory holds, and its file descriptor, which the caller closes when it is sent.
    """
    header = TensorHeader(dtype=dtype_name(tensor.dtype), shape=tuple(tensor.shape))
    segment = _new_segment(header.numel * tensor.element_size())
    try:
        _mapped(header, segment).copy_(tensor.detach())
    except BaseException:
        os.close(segment)
        raise
    return header, segment


def adopt(header: TensorHeader, segment: int) -> Tensor:
    """The tensor in shared memory that was received, without a copy; it keeps the memory alive.

    Args:
        header: what the memory is said to hold.
        segment: its file descriptor, closed here in any case.

    Raises:
        ValueError: the memory is smaller than that.
    """
    try:
        there, needed = os.fstat(segment).st_size, header.numel * dtype_of(header.dtype).itemsize
        if there < needed:
            raise ValueError(f"a tensor of {needed:,} bytes was announced, and {there:,} came")
        return _mapped(header, segment)
    finally:
        os.close(segment)


def _new_segment(nbytes: int) -> int:
    if hasattr(os, "memfd_create"):
        segment = os.memfd_create("mova")
    else:  # outside Linux a file without a name does the same
        with tempfile.TemporaryFile() as file:
            segment = os.dup(file.fileno())
    os.ftruncate(segment, nbytes)
    return segment


def _mapped(header: TensorHeader, segment: int) -> Tensor:
    dtype = dtype_of(header.dtype)
    if not header.numel:
        return torch.empty(header.shape, dtype=dtype)
    # torch maps a file it opens by name, and keeps no descriptor open as Python's mmap would.
    flat = torch.from_file(f"/dev/fd/{segment}", shared=True, size=header.numel, dtype=dtype)
    return flat.view(header.shape)
