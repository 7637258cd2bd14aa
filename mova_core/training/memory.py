"""Keeping freed memory in the process while training on CPU.

glibc hands every large block back to the kernel when it is freed, and the kernel clears its pages when they
are asked for again. A training step frees and asks for the same gigabytes every second: measured on two
cores, keeping them halves a step of a small convolutional network.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_ONE_GIB = 1 << 30


def keep_freed_memory() -> bool:
    """Tells glibc to reuse freed blocks instead of returning them.

    Returns:
        Whether the C library took the settings; False on anything but Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _ONE_GIB) and mallopt(_M_TRIM_THRESHOLD, 2 * _ONE_GIB - 1))
