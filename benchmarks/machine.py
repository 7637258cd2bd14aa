"""What the benchmarks ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

CPU_INFO = Path("/proc/cpuinfo")
UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Units that decide how fast a CPU multiplies, by the names of Linux."""


def threads() -> int:
    """Threads that everything is timed with: two, or the one that there is."""
    return min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def facts() -> list[str]:
    """Lines that say what a run ran on."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    if CPU_INFO.exists():
        lines = [line.partition(":") for line in CPU_INFO.read_text().splitlines()]
        fields = {field.strip(): value.strip() for field, _, value in lines}
        name, flags = fields.get("model name", name), set(fields.get("flags", "").split())
    known = [unit for unit in UNITS if unit in flags]
    return [
        f"machine  {name}, {torch.get_num_threads()} threads, units {', '.join(known) or 'unknown'}",
        f"software Python {platform.python_version()}, torch {torch.__version__}, {platform.platform()}",
    ]
