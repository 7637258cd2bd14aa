"""Facts about this machine and its packages, gathered without importing any of them."""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_MEMORY_INFO = Path("/proc/meminfo")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, ARM


def environment() -> dict[str, str]:
    """What an answer to "on what does it run?" should say, in order."""
    packages = ("mova-core", "torch", "transformers", "peft", "timm")
    return {
        "python": f"{sys.version.split()[0]} ({sys.executable})",
        **{name: _installed(name) for name in packages},
        "cores": str(_cores()),
        "memory": _memory(),
        "bf16": "yes" if has_bf16() else "no, the processor lacks it: float32 is faster",
        "cache": str(cache_folder()),
    }


def cache_folder() -> Path:
    """Where fetched parts of models are kept."""
    from mova_core.cards.folders import cache_root

    return cache_root()


def has_bf16(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether the processor multiplies in bfloat16.

    Args:
        cpu_info: where Linux says what the processor can do; elsewhere the answer is no.
    """
    if not cpu_info.is_file():
        return False
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpu_info.read_text(errors="replace"), re.MULTILINE)
    return any(_BF16_FLAGS & set(line.split()) for line in lines)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> str:
    if not _MEMORY_INFO.is_file():
        return "unknown"
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _MEMORY_INFO.read_text(), re.MULTILINE))
    total, free = (int(found.get(key, 0)) / 2**20 for key in ("MemTotal", "MemAvailable"))
    return f"{total:.1f} GiB, {free:.1f} GiB available"


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
