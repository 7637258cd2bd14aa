"""`load`: from a model's name or directory to a `Mova` that answers."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mova_core.cards.card import ExpertCard
from mova_core.cards.resolve import usable_expert
from mova_core.cards.warning import warn
from mova_core.errors import CheckpointError, ConfigError
from mova_core.experts.shelf import silent

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from mova_core.cards.records import ExpertRecord
    from mova_core.experts.shelf import Progress
    from mova_core.model.assistant import Mova
    from mova_core.model.compiling import Compile
    from mova_core.model.language import DeviceMap
    from mova_core.model.placement import MemoryPlan
    from mova_core.model.settings import PoolEntry

CACHE_BYTES = 512 * 2**20


def load(
    name: str | Path = "mova-nano",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: DeviceMap | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
    quantization: str | Any | None = None,
    attn_implementation: str | None = None,
    compile: Compile = False,
    plan: MemoryPlan | None = None,
    memory_budget: int | Literal["auto"] | None = None,
    expert_device: str | torch.device | None = None,
    cache_bytes: int = CACHE_BYTES,
    on_expert_error: Literal["error", "skip"] = "error",
    progress: Progress = silent,
) -> Mova:
    """Loads a model with its processor, pool and router.

    Args:
        name: an installed model (`mova models list`) or a checkpoint directory.
        device: where it runs, such as "cuda"; "auto" for the first GPU, if there is one. By default the CPU,
            or with a `device_map` where the language model begins.
        dtype: of the language model, by name or as torch's; what the device computes fastest by default.
        device_map: shares the language model out over devices: "auto", or as for any transformers model.
            Everything else stays with its first layer.
        max_memory: by device, how much of it `device_map="auto"` may use.
        offload_folder: where weights go that are to lie on disk and do not lie in a safetensors file.
        quantization: "8bit" or "4bit" (bitsandbytes), or a quantisation configuration of transformers, for
            the language model.
        attn_implementation: attention of the language model; see `mova_core.model.language.LanguageOptions`.
        compile: puts adapter and language model through `torch.compile`: True, one of its modes, or its
            keyword arguments. Pays off when many questions are asked.
        plan: what goes where, as `mova_core.model.planning.plan_memory` found it. It says device, dtype,
            device_map, quantization and memory_budget, which are not given then.
        memory_budget: bound of all loaded experts in bytes; "auto" for what a plan of the device leaves to
            them; None for no bound. The base encoder does not count.
        expert_device: where the experts run, if not beside the base encoder. On a device of their own they
            start as soon as they are decided, while the route goes on.
        cache_bytes: bound of the cache of base and expert features.
        on_expert_error: "error", or "skip" to answer without a routed expert that fails.
        progress: hears of loading.

    Returns:
        The model, ready to be asked.

    Raises:
        CheckpointError: there is no such model, or it is incomplete, corrupt, or made for experts not
            installed.
        PartsError: a part was not fetched; the message holds the command.
        ConfigError: an option is wrong, or needs what this machine does not have.
    """
    from mova_core.experts.cache import FeatureCache
    from mova_core.experts.pool import ExpertPool
    from mova_core.hookspecs import load_hooks
    from mova_core.model.assistant import Mova
    from mova_core.model.checkpoint import load_model, read_config
    from mova_core.model.devices import find_device
    from mova_core.model.modeling import MovaForConditionalGeneration
    from mova_core.model.own_cards import own_record
    from mova_core.model.planning import settle
    from mova_core.model.processing import MovaProcessor
    from mova_core.model.sources import find_weights

    directory = find_checkpoint(name)
    config = read_config(directory)
    records = pool_records(directory)
    progress(f"loading {name}")
    options: dict[str, Any] = {
        "device": device,
        "dtype": dtype,
        "device_map": device_map,
        "quantization": quantization,
        "memory_budget": memory_budget,
    }
    if plan is not None or memory_budget == "auto":
        options = settle(directory, plan, options, cache_bytes=cache_bytes)
    if expert_device is not None and (plan is not None or memory_budget == "auto"):
        raise ConfigError(
            "a plan places the experts beside the base encoder",
            value=f"expert_device {expert_device}",
            hint="Give their memory_budget in bytes, or no expert_device.",
        )
    budget = options.pop("memory_budget")
    model = load_model(
        MovaForConditionalGeneration,
        directory,
        **options,
        max_memory=max_memory,
        offload_folder=offload_folder,
        attn_implementation=attn_implementation,
        compile=compile,
    )
    pool = ExpertPool(
        [*records, own_record(usable_expert(config.base), config, directory)],
        device=model.device if expert_device is None else find_device(expert_device),
        dtype=next(model.base.parameters()).dtype,
        memory_budget=budget,
        cache=FeatureCache(cache_bytes) if cache_bytes else None,
        held={config.base: model.base},
        on_expert_error=on_expert_error,
        find=find_weights,
        progress=progress,
    )
    return Mova(model, MovaProcessor.from_pretrained(directory), pool, hooks=load_hooks())


def find_checkpoint(name: str | Path) -> Path:
    """The checkpoint directory of an installed model, or the directory itself.

    Raises:
        CheckpointError: if there is neither.
    """
    from mova_core.cards.discovery import discover_models

    if (Path(name) / "config.json").is_file():
        return Path(name)
    models = {record.id: record for record in discover_models()}
    record = models.get(str(name))
    if record is None:
        near = difflib.get_close_matches(str(name), models, n=1)
        raise CheckpointError(
            "no such model",
            value=str(name),
            expected=" or ".join([*near, *([] if near else models), "a checkpoint directory"]),
            hint="`mova models list` shows what is installed.",
        )
    if record.checkpoint is None:
        raise CheckpointError(f"model {record.id} cannot be used: {record.problem}", hint=record.hint)
    return record.checkpoint


def pool_records(directory: Path) -> list[ExpertRecord]:
    """The installed experts of a checkpoint's pool.

    Raises:
        CheckpointError: naming every expert that is missing, unusable or of another shape, with the way out.
    """
    from mova_core.cards.discovery import discover
    from mova_core.model.checkpoint import read_config
    from mova_core.model.own_cards import own_record

    installed = {record.id: record for record in discover()}
    found, wrong = [], []
    config = read_config(directory)
    for entry in config.manifest:
        record = installed.get(entry.id)
        if record is None:
            wrong.append(f"{entry.id} is not installed")
            continue
        own = own_record(record, config, directory)
        if record.card is None or own.card is None or record.status != "ok":
            wrong.append(f"{entry.id} is {record.status} ({record.problem})")
        elif own.card.features.channels != entry.channels:
            wrong.append(f"{entry.id} gives {own.card.features.channels} channels, not {entry.channels}")
        else:
            _warn_if_changed(record.card, own.card, entry)
            found.append(own)
    if wrong:
        raise CheckpointError(
            "the checkpoint's pool is not here: " + "; ".join(wrong),
            value=str(directory),
            expected="every expert it was trained with",
            hint="Install them (`pip install mova-expert-NAME`, or the "
            "distribution that `mova experts list` names), then run `mova doctor`.",
        )
    return found


def _warn_if_changed(installed: ExpertCard, own: ExpertCard, entry: PoolEntry) -> None:
    """An expert that changed since training still fits; its pack, or the router, may know it less well.

    Args:
        installed: its card now, whose hash is compared.
        own: that card as the checkpoint has it, whose weights are.
        entry: what the checkpoint was trained with.
    """
    revision = own.weights.revision or ""
    if revision != entry.revision:
        warn(
            f"{own.id} has weights {revision or 'without a revision'}; "
            f"the checkpoint was trained with {entry.revision or 'others'}"
        )
    elif entry.card_hash and installed.hash != entry.card_hash:
        warn(f"the card of {own.id} is not the one the checkpoint was trained with")
