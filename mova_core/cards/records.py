"""What discovery finds: one record for each expert and model, usable or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mova_core.cards.card import ExpertCard
    from mova_core.cards.models import ModelCard, PartSpec

Status = Literal[
    "ok",
    "disabled",  # switched off by MOVA_DISABLE_EXPERTS
    "incompatible",  # written for another version of the expert contract
    "invalid-card",  # the card is not there, not readable, or wrong
    "missing-dependency",  # something the distribution needs is not installed
    "import-failed",  # the factory was imported, and that failed
    "conflict",  # another distribution brings a usable expert of this id
]
"""What can be done with a discovered expert. Only "ok" can be used by its bare id."""

USER = "user"
"""Stands for the distribution of cards that lie in the user's card directory."""


@dataclass(frozen=True, slots=True)
class Record:
    """One discovered thing.

    Args:
        id: its name.
        status: whether it can be used, and if not, why not.
        distribution: who brings it: a distribution's name, or "user".
        version: of the distribution; empty for "user".
        source: the card file, where one was found.
        problem: what is wrong; empty if nothing is.
        hint: the way out, usually a command.
    """

    id: str
    status: Status
    distribution: str = USER
    version: str = ""
    source: Path | None = None
    problem: str = ""
    hint: str = ""

    @property
    def qualified(self) -> str:
        """The name that stays unique if two distributions bring one id: `distribution/id`."""
        return f"{self.distribution}/{self.id}"


@dataclass(frozen=True, slots=True)
class ExpertRecord(Record):
    """One discovered expert or base encoder.

    Args:
        card: the card, where it could be read.
    """

    card: ExpertCard | None = None


@dataclass(frozen=True, slots=True)
class ModelRecord(Record):
    """One discovered model.

    Args:
        card: the card, where it could be read.
    """

    card: ModelCard | None = None

    @property
    def checkpoint(self) -> Path | None:
        """Folder of the trained weights."""
        return self.source.parent / self.card.checkpoint if self.source and self.card else None

    @property
    def parts(self) -> tuple[PartSpec, ...]:
        """The pretrained parts the model stands on."""
        return self.card.parts if self.card else ()
