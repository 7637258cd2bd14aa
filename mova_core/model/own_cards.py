"""What a checkpoint changes of the cards of its experts and its base encoder.

A checkpoint may bring an expert's weights along, or want its pictures prepared in another way than the card
of the installed plugin says. `config.json` keeps that under `cards`: by id a card in part, whose tables are
laid over those of the installed card. A weight source `inside:FOLDER` is a folder of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mova_core.cards.card import ExpertCard
from mova_core.cards.records import ExpertRecord
from mova_core.errors import CheckpointError
from mova_core.model.config import MovaConfig

INSIDE = "inside:"


def own_record(record: ExpertRecord, config: MovaConfig, directory: Path) -> ExpertRecord:
    """A record with the card as the checkpoint has it; the very same record where nothing is changed.

    Raises:
        CheckpointError: `cards` holds what no card can hold.
    """
    changes = config.cards.get(record.id)
    if not changes or record.card is None:
        return record
    return replace(record, card=changed_card(record.card, changes, directory))


def changed_card(card: ExpertCard, changes: Mapping[str, Any], directory: Path) -> ExpertCard:
    """A card with some of its entries replaced.

    Args:
        card: the card of the installed plugin.
        changes: a card in part, as TOML or JSON hold it; of a table, only the keys that are named change.
        directory: the checkpoint, for sources `inside:FOLDER`.

    Raises:
        CheckpointError: the outcome is no card; the message names the key.
    """
    document = _laid_over(card.model_dump(exclude_defaults=True), changes)
    weights = dict(document["weights"])
    weights["sources"] = [_absolute(source, directory) for source in weights.get("sources", ())]
    try:
        return ExpertCard.model_validate({**document, "weights": weights})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["cards", card.id, *map(str, first["loc"])])
        raise CheckpointError(
            f"config.json: {place}: {first['msg']}",
            value=str(directory),
            hint="Fetch, convert or save the checkpoint again.",
        ) from error


def _laid_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of both, those of `over` where both have one; tables are merged in turn."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = _laid_over(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _absolute(source: str, directory: Path) -> str:
    if not source.startswith(INSIDE):
        return source
    return f"file:{(directory / source.removeprefix(INSIDE)).resolve()}"
