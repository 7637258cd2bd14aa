"""Whether an expert's weights are on this machine, and how to get them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mova_core.cards.discovery import discover_models
from mova_core.cards.records import ExpertRecord
from mova_core.cards.weights import locate


@dataclass(frozen=True, slots=True)
class SourceState:
    """One source of weights.

    Args:
        source: as the card writes it.
        path: where it lies; None if it is not here.
        fetch: what to do to get it; empty if it is here.
    """

    source: str
    path: Path | None
    fetch: str


def weight_sources(record: ExpertRecord) -> list[SourceState]:
    """The state of each source of an expert's weights, in the card's order; empty without a card."""
    if record.card is None:
        return []
    weights = record.card.weights
    beside = record.source.parent if record.source else None
    states = []
    for source in weights.sources:
        path = _part(source) if source.startswith("part:") else None
        path = path or locate(source, beside=beside, revision=weights.revision)
        states.append(SourceState(source, path, "" if path else _fetch(record, source)))
    return states


def _part(source: str) -> Path | None:
    """Folder of a part `part:MODEL/PART` that was fetched."""
    from mova_core.model.parts.store import stored

    model, _, part_id = source.removeprefix("part:").partition("/")
    parts = [part for record in discover_models() if record.id == model for part in record.parts]
    return next((stored(part) for part in parts if part.id == part_id), None)


def _fetch(record: ExpertRecord, source: str) -> str:
    scheme, _, place = source.partition(":")
    if scheme == "part":
        return f"mova models pull {place.partition('/')[0]}"
    if scheme == "hf":
        revision = record.card.weights.revision if record.card else None
        return f"hf download {place}" + (f" --revision {revision}" if revision else "")
    if scheme == "package":
        return f"pip install --force-reinstall --no-deps {record.distribution}"
    if scheme == "file":
        return f"put the file at {place}"
    return f"download {source} and name it in a card of yours as file:PATH"
