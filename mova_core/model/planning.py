"""Planning a model's memory before it is loaded, and loading as planned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from mova_core.errors import ConfigError
from mova_core.model.devices import DTYPES, find_device, find_dtype
from mova_core.model.gpus import RUNTIME, parse_gpus
from mova_core.model.inventory import Inventory, read_inventory
from mova_core.model.load import CACHE_BYTES, find_checkpoint
from mova_core.model.placement import CPU, Device, MemoryPlan, place
from mova_core.model.quantization import QUANTIZATIONS
from mova_core.model.sizing import measure

MOST_GPUS: Final = 8
"""Up to how many GPUs are suggested."""


def plan_memory(
    name: str | Path = "mova-nano",
    *,
    gpus: str | None = None,
    dtype: str | torch.dtype | None = None,
    quantization: str | None = None,
    context: int | None = None,
    working: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    devices: tuple[Device, ...] | None = None,
) -> MemoryPlan:
    """What goes where, decided from file headers and cards.

    Args:
        name: an installed model, or a checkpoint directory.
        gpus: sizes of GPUs, such as "2x24GB"; those of this machine by default, or its memory without any.
        dtype: of the language model, by name or as torch's; bfloat16 on GPUs by default, and on the CPU what
            is fastest.
        quantization: "8bit" or "4bit" for the language model's layers.
        context: tokens of the longest conversation; 4,096 or what the language model reads.
        working: bytes for forward passes of encoders; 1 GB in 16 bits.
        cache_bytes: bound of the cache of features.
        devices: in place of `gpus`, devices that are known already.

    Returns:
        The plan, for `mova_core.load(name, plan=plan)`.

    Raises:
        CheckpointError, PartsError: there is no such model, or something of it is missing.
        ConfigError: an option is wrong.
    """
    devices = devices or (machine_devices() if gpus is None else parse_gpus(gpus))
    if quantization not in (None, *QUANTIZATIONS):
        raise ConfigError("unknown quantisation", value=quantization, expected=" or ".join(QUANTIZATIONS))
    inventory = read_inventory(find_checkpoint(name))
    return _planned(
        str(name),
        inventory,
        devices,
        dtype=_dtype_name(dtype, devices[0]),
        quantization=quantization,
        context=context,
        working=working,
        cache_bytes=cache_bytes,
    )


def ways_out(plan: MemoryPlan, **options: Any) -> Iterator[tuple[str, MemoryPlan]]:
    """Plans of the same model that fit where `plan` does not, each with the options of `mova plan` it takes.

    Args:
        plan: one that does not fit.
        **options: those of `plan_memory` that it was made with, besides devices, dtype and quantisation.
    """
    inventory = read_inventory(find_checkpoint(plan.model))
    options.setdefault("cache_bytes", plan.sizes.features.nbytes)
    devices = tuple(share.device for share in plan.shares)
    own = {"dtype": plan.sizes.dtype, "quantization": plan.sizes.quantization}
    changes: list[tuple[str, dict[str, Any]]] = []
    if plan.sizes.dtype == "float32":
        changes.append(("--dtype bfloat16", {"dtype": "bfloat16"}))
    half = {"dtype": "bfloat16"} if plan.sizes.dtype == "float32" else {}
    words = "--dtype bfloat16 " if half else ""
    for bits in QUANTIZATIONS[
        QUANTIZATIONS.index(plan.sizes.quantization) + 1 if plan.sizes.quantization else 0 :
    ]:
        changes.append((f"{words}--quantize {bits}", {**half, "quantization": bits}))
    for said, change in changes:
        other = _planned(plan.model, inventory, devices, **{**own, **change}, **options)
        if other.fits:
            yield said, other
    if devices[0].name != CPU:
        yield from _more_gpus(plan, inventory, devices, {**own, **options})


def _more_gpus(
    plan: MemoryPlan, inventory: Inventory, devices: tuple[Device, ...], options: dict[str, Any]
) -> Iterator[tuple[str, MemoryPlan]]:
    """The fewest further GPUs, as large as the largest, that make it fit."""
    largest = max(device.nbytes for device in devices)
    for count in range(len(devices) + 1, MOST_GPUS + 1):
        added = [replace(devices[0], name=f"cuda:{n}", nbytes=largest) for n in range(len(devices), count)]
        other = _planned(plan.model, inventory, (*devices, *added), **options)
        if other.fits:
            sizes = ",".join(f"{share.device.nbytes / 10**6:.0f}MB" for share in other.shares)
            yield f"--gpus {sizes}", other
            return


def machine_devices() -> tuple[Device, ...]:
    """The GPUs of this machine with the memory that is free now; without any, its own memory."""
    from accelerate.utils import get_max_memory

    free = get_max_memory()
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    numbered = sorted(key for key in free if isinstance(key, int))
    if kind is None or not numbered:
        return (Device(CPU, int(free[CPU])),)
    return tuple(Device(f"{kind.type}:{n}", int(free[n]), RUNTIME) for n in numbered)


def settle(
    directory: Path, plan: MemoryPlan | None, options: Mapping[str, Any], *, cache_bytes: int
) -> dict[str, Any]:
    """The options of `mova_core.load` with what a plan says of them.

    Args:
        directory: the checkpoint.
        plan: as given; without one, `memory_budget` is "auto".
        options: device, dtype, device_map, quantization and memory_budget as given.
        cache_bytes: bound of the cache of features.

    Raises:
        ConfigError: the plan cannot be loaded, or says itself what was given besides.
    """
    if plan is None:
        return {**options, "memory_budget": _automatic(directory, options, cache_bytes)}
    given = sorted(name for name, value in options.items() if value is not None)
    if given:
        raise ConfigError(
            "a plan says this itself",
            value=", ".join(given),
            hint="Plan with these options, or load without.",
        )
    if not plan.loads:
        raise ConfigError(
            "by this plan the model does not fit",
            value=", ".join(
                f"{share.device.name} {share.device.nbytes / 10**9:.1f} GB" for share in plan.shares
            ),
            hint=f"`mova plan {plan.model}` says what would.",
        )
    return plan.arguments


def _automatic(directory: Path, options: Mapping[str, Any], cache_bytes: int) -> int:
    """What a plan of one device of this machine leaves to the experts."""
    quantization = options["quantization"]
    if options["device_map"] is not None or not (quantization is None or isinstance(quantization, str)):
        raise ConfigError(
            'memory_budget="auto" plans for one device and for "8bit" or "4bit" only',
            expected="no device_map, and no quantisation configuration",
            hint="Give plan=plan_memory(...), or the budget in bytes.",
        )
    device = find_device(options["device"] or CPU)
    named = device.type if device.type == CPU else f"{device.type}:{device.index or 0}"
    found = {known.name: known for known in machine_devices()}
    here = found.get(named) or Device(CPU, _own_memory())
    plan = plan_memory(
        directory,
        devices=(here,),
        dtype=options["dtype"],
        quantization=quantization,
        cache_bytes=cache_bytes,
    )
    return plan.budget


def _own_memory() -> int:
    from accelerate.utils import get_max_memory

    return int(get_max_memory()[CPU])


def _dtype_name(dtype: str | torch.dtype | None, first: Device) -> str:
    from mova_core.model.checkpoint import preferred_dtype

    found = find_dtype(dtype)
    if found is None:
        found = preferred_dtype(torch.device(CPU)) if first.name == CPU else torch.bfloat16
    return next(name for name, known in DTYPES.items() if known == found)


def _planned(
    name: str, inventory: Inventory, devices: tuple[Device, ...], *, dtype: str, **options: Any
) -> MemoryPlan:
    adapter = "float32" if devices[0].name == CPU else dtype
    return place(name, measure(inventory, dtype=dtype, adapter_dtype=adapter, **options), devices)
