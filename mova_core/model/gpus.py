"""GPUs as a user writes them down: `24GB`, `2x24GB`, `80GB,24GB`."""

from __future__ import annotations

import re
from typing import Final

from mova_core.errors import ConfigError
from mova_core.model.placement import Device

UNITS: Final = {"mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": 2**30}
RUNTIME: Final = 500 * 10**6
"""Bytes that CUDA takes of a GPU for itself."""

MOST: Final = 64
_GPU = re.compile(r"(?:(\d+)\s*x\s*)?(\d+(?:\.\d+)?)\s*([mg]i?b)", re.IGNORECASE)


def parse_gpus(text: str) -> tuple[Device, ...]:
    """GPUs in torch's order.

    Args:
        text: a size for each, with commas; `NxSIZE` for N alike. GB and MB are decimal, GiB and MiB binary.

    Raises:
        ConfigError: the text is no list of sizes.
    """
    sizes: list[int] = []
    for word in text.split(","):
        found = _GPU.fullmatch(word.strip())
        count = int(found[1] or 1) if found else 0
        if found is None or not 1 <= count <= MOST:
            raise _wrong(text)
        sizes += [parse_size(found[2] + found[3])] * count
    if len(sizes) > MOST:
        raise _wrong(text)
    return tuple(Device(f"cuda:{number}", size, RUNTIME) for number, size in enumerate(sizes))


def parse_size(text: str) -> int:
    """Bytes of a size such as "1.5GB".

    Raises:
        ConfigError: the text is no size, or nothing.
    """
    found = _GPU.fullmatch(text.strip())
    size = round(float(found[2]) * UNITS[found[3].lower()]) if found and not found[1] else 0
    if size <= 0:
        raise ConfigError("this is no size of memory", value=text, expected="a size such as 1.5GB or 900MiB")
    return size


def _wrong(text: str) -> ConfigError:
    return ConfigError(
        "these are no GPUs",
        value=text,
        expected="a size for each, such as 24GB, 24GiB, 24576MB, 2x24GB or 80GB,24GB",
    )
