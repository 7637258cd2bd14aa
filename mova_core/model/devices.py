"""Devices and dtypes as a user names them."""

from __future__ import annotations

from typing import Final

import torch

from mova_core.errors import ConfigError

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes a model can be loaded in, by name."""

SHORT: Final = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""What these are also called."""


def find_device(device: str | torch.device) -> torch.device:
    """A device of this machine.

    Args:
        device: such as "cpu" or "cuda:1"; "auto" for the first accelerator, or the CPU without one.

    Raises:
        ConfigError: torch knows no such device, or this machine has none.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device == "auto":
        return accelerator or torch.device("cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError("no such device", value=str(device), expected=_here(accelerator)) from error
    count = torch.accelerator.device_count() if accelerator else 0
    beyond = found.index is not None and found.index >= count
    if found.type != "cpu" and (accelerator is None or found.type != accelerator.type or beyond):
        raise ConfigError(
            "this device is not here",
            value=str(device),
            expected=_here(accelerator),
            hint="`mova doctor` shows what torch finds.",
        )
    return found


def _here(accelerator: torch.device | None) -> str:
    if accelerator is None:
        return "cpu, since torch finds no GPU"
    count = torch.accelerator.device_count()
    return "cpu, or " + ", ".join(f"{accelerator.type}:{number}" for number in range(count))


def check_home(home: torch.device, wanted: torch.device) -> None:
    """Refuses a device map under which the language model begins elsewhere than everything else is to be.

    Args:
        home: where the language model begins.
        wanted: the device that was named for the rest.

    Raises:
        ConfigError: they differ.
    """
    if home.type != wanted.type or (home.index or 0) != (wanted.index or 0):
        raise ConfigError(
            "the device_map begins on another device",
            value=f"device {wanted}, language model from {home}",
            expected="both the same: adapter and base encoder stay with the language model's first layer",
            hint="Leave out device.",
        )


def find_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A dtype by its name; None and "auto" leave the choice to the device.

    Raises:
        ConfigError: for a name or dtype that no model is loaded in.
    """
    if dtype is None or dtype == "auto":
        return None
    found = DTYPES.get(SHORT.get(dtype, dtype)) if isinstance(dtype, str) else dtype
    if found not in DTYPES.values():
        raise ConfigError("a model cannot be loaded in this dtype", value=str(dtype), expected=_names())
    return found


def _names() -> str:
    return f"auto, {', '.join(DTYPES)}"
