"""`load`: from a model's name or directory to a `Mova` that answers."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mova_core.cards.card import ExpertCard
from mova_core.cards.warning import warn
from mova_core.errors import CheckpointError
from mova_core.experts.shelf import silent

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from mova_core.cards.records import ExpertRecord
    from mova_core.experts.protocol import VisionExpert
    from mova_core.experts.shelf import Progress
    from mova_core.model.assistant import Mova
    from mova_core.model.modeling import MovaForConditionalGeneration
    from mova_core.model.settings import PoolEntry

CACHE_BYTES = 512 * 2**20


def load(
    name: str | Path = "mova-nano",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    memory_budget: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    on_expert_error: Literal["error", "skip"] = "error",
    progress: Progress = silent,
) -> Mova:
    """Loads a model with its processor, pool and router.

    Args:
        name: an installed model (`mova models list`) or a checkpoint directory.
        device: where it runs.
        dtype: of the language model; what the device computes fastest by default.
        memory_budget: bound of all loaded experts in bytes; None for no bound.
        cache_bytes: bound of the cache of base and expert features.
        on_expert_error: "error", or "skip" to answer without a routed expert that fails.
        progress: hears of loading.

    Returns:
        The model, ready to be asked.

    Raises:
        CheckpointError: there is no such model, or it is incomplete, corrupt, or made for experts not
            installed.
        PartsError: a part was not fetched; the message holds the command.
    """
    from mova_core.experts.cache import FeatureCache
    from mova_core.experts.pool import ExpertPool
    from mova_core.hookspecs import load_hooks
    from mova_core.model.assistant import Mova
    from mova_core.model.checkpoint import load_model, read_config
    from mova_core.model.modeling import MovaForConditionalGeneration
    from mova_core.model.processing import MovaProcessor

    directory = find_checkpoint(name)
    records = pool_records(directory)
    progress(f"loading {name}")
    model = load_model(MovaForConditionalGeneration, directory, dtype=dtype, device=device)
    records.append(_base_record(read_config(directory).base))
    cache = FeatureCache(cache_bytes) if cache_bytes else None
    pool = ExpertPool(
        records,
        device=device,
        dtype=next(model.base.parameters()).dtype,
        memory_budget=memory_budget,
        cache=cache,
        on_expert_error=on_expert_error,
        loader=_loader(model, records, device),
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

    installed = {record.id: record for record in discover()}
    found, wrong = [], []
    for entry in read_config(directory).manifest:
        record = installed.get(entry.id)
        if record is None:
            wrong.append(f"{entry.id} is not installed")
        elif record.card is None or record.status != "ok":
            wrong.append(f"{entry.id} is {record.status} ({record.problem})")
        elif record.card.features.channels != entry.channels:
            wrong.append(f"{entry.id} gives {record.card.features.channels} channels, not {entry.channels}")
        else:
            found.append(record)
            _warn_if_changed(record.card, entry)
    if wrong:
        raise CheckpointError(
            "the checkpoint's pool is not here: " + "; ".join(wrong),
            value=str(directory),
            expected="every expert it was trained with",
            hint="Install them (`pip install mova-expert-NAME`, or the "
            "distribution that `mova experts list` names), then run `mova doctor`.",
        )
    return found


def _warn_if_changed(card: ExpertCard, entry: PoolEntry) -> None:
    """An expert that changed since training still fits; its pack, or the router, may know it less well."""
    revision = card.weights.revision or ""
    if revision != entry.revision:
        warn(
            f"{card.id} has weights {revision or 'without a revision'}; "
            f"the checkpoint was trained with {entry.revision or 'others'}"
        )
    elif entry.card_hash and card.hash != entry.card_hash:
        warn(f"the card of {card.id} is not the one the checkpoint was trained with")


def _base_record(id: str) -> ExpertRecord:
    from mova_core.cards.resolve import usable_expert

    return usable_expert(id)


def _loader(
    model: MovaForConditionalGeneration, records: list[ExpertRecord], device: str | torch.device
) -> Callable[[ExpertCard], VisionExpert]:
    """Loads experts from their cards, and hands out the base encoder that the model holds already."""
    import torch

    from mova_core.experts.loading import load_expert
    from mova_core.model.sources import find_weights

    folders = {record.id: record.source.parent for record in records if record.source}

    def build(card: ExpertCard) -> VisionExpert:
        if card.id == model.config.base:
            return model.base.bind(card)
        return load_expert(
            card,
            device=torch.device(device),
            dtype=next(model.base.parameters()).dtype,
            beside=folders.get(card.id),
            find=find_weights,
        )

    return build
