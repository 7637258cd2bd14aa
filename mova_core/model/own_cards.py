"""What a checkpoint changes of the cards of its experts and its base encoder.

A checkpoint may bring an expert's weights along, or want its pictures prepared in another way than the card
of the installed plugin says. `config.json` keeps that under `cards`. Code, licence and notice stay those of
the installed card: a checkpoint is data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mova_core.cards.card import ExpertCard, Option
from mova_core.cards.records import ExpertRecord
from mova_core.cards.spec import InnerPath, Spec
from mova_core.errors import CheckpointError
from mova_core.model.config import MovaConfig


class OwnWeights(Spec):
    """Weights that a checkpoint brings along.

    Args:
        folder: where they lie in it.
        revision: what tells them from others, for caches and warnings.
    """

    folder: InnerPath
    revision: str | None = None


class CardChanges(Spec):
    """A part of a card that takes the place of the installed one.

    Args:
        weights: in place of the card's sources.
        input: entries of the input stream; those not named stay.
        features: entries of the feature spec; those not named stay.
        options: arguments of the factory; those not named stay.
    """

    weights: OwnWeights | None = None
    input: dict[str, Any] = {}
    features: dict[str, Any] = {}
    options: dict[str, Option] = {}


def own_record(record: ExpertRecord, config: MovaConfig, directory: Path) -> ExpertRecord:
    """A record with the card as the checkpoint has it; the very same record where nothing is changed.

    Raises:
        CheckpointError: `cards` holds what no card can hold.
    """
    if record.id not in config.cards or record.card is None:
        return record
    return replace(record, card=changed_card(record.card, card_changes(config, record.id), directory))


def card_changes(config: MovaConfig, id: str) -> CardChanges:
    """What a checkpoint changes of one card.

    Raises:
        CheckpointError: it changes what no checkpoint may.
    """
    try:
        return CardChanges.model_validate(config.cards.get(id, {}))
    except ValidationError as error:
        raise _unfit(id, error) from error


def changed_card(card: ExpertCard, changes: CardChanges, directory: Path) -> ExpertCard:
    """A card with some of its entries replaced.

    Args:
        card: the card of the installed plugin.
        changes: what to replace.
        directory: the checkpoint.

    Raises:
        CheckpointError: the outcome is no card; the message names the key.
    """
    stated = card.model_dump(exclude_defaults=True)
    for table in ("input", "features", "options"):
        stated[table] = {**stated.get(table, {}), **getattr(changes, table)}
    if own := changes.weights:
        source = f"file:{(directory / own.folder).absolute()}"
        stated["weights"] |= {"sources": (source,), "revision": own.revision, "sha256": None}
    try:
        return ExpertCard.model_validate(stated)
    except ValidationError as error:
        raise _unfit(card.id, error) from error


def _unfit(id: str, error: ValidationError) -> CheckpointError:
    first: Mapping[str, Any] = error.errors()[0]
    place = ".".join(["cards", id, *map(str, first["loc"])])
    return CheckpointError(
        f"config.json: {place}: {first['msg']}", hint="Fetch, convert or save the checkpoint again."
    )
