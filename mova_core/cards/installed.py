"""Which distributions bring experts, models or behaviour, and what each brings, usable or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata

from mova_core.cards.discovery import EXPERTS, MODELS, discover, discover_models
from mova_core.cards.entries import entries
from mova_core.cards.records import USER, ExpertRecord, ModelRecord

GROUPS = (EXPERTS, MODELS, "mova.hooks")


@dataclass(slots=True)
class Brought:
    """A distribution and what it brings.

    Args:
        name: in the form package indexes use.
        version: its version.
        experts: its experts, whatever their status.
        models: its models, whatever their status.
    """

    name: str
    version: str
    experts: list[ExpertRecord] = field(default_factory=list)
    models: list[ModelRecord] = field(default_factory=list)

    @property
    def record_names(self) -> list[str]:
        """The experts and models, in words."""
        return [
            *(f"expert {record.id}" for record in self.experts),
            *(f"model {record.id}" for record in self.models),
        ]


def installed() -> dict[str, Brought]:
    """The distributions of this environment that bring something, by name.

    One whose cards the user wrote counts, too, if its code is what such a card names as its factory.

    Raises:
        CardError: MOVA_STRICT_PLUGINS is "1" and an expert or model has a problem.
    """
    found = {
        entry.owner.name: Brought(entry.owner.name, entry.owner.version)
        for g in GROUPS
        for entry in entries(g)
    }
    records = discover()
    for name, version in _behind_user_cards(records):
        found.setdefault(name, Brought(name, version))
    for record in records:
        if record.distribution != USER:
            found[record.distribution].experts.append(record)
    for model in discover_models():
        found[model.distribution].models.append(model)
    return dict(sorted(found.items()))


def owner(package: str) -> tuple[str, str] | None:
    """Name and version of the distribution that a top-level package belongs to; None if it belongs to none.

    An editable installation does not say which packages it holds, so the conventional name is tried first.
    """
    names = [package.replace("_", "-").lower()]
    with suppress(OSError, ValueError):  # some other distribution's list of files cannot be read
        names += metadata.packages_distributions().get(package, [])
    return next(((name, found) for name in names if (found := version(name))), None)


def version(distribution: str) -> str | None:
    """The version of a distribution; None if it is not installed, or its metadata cannot be read."""
    try:
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, KeyError, ValueError):
        return None


def factory_package(record: ExpertRecord) -> str:
    """The top-level package of an expert's code; empty without a card."""
    return record.card.factory.partition(":")[0].partition(".")[0] if record.card else ""


def _behind_user_cards(records: list[ExpertRecord]) -> Iterator[tuple[str, str]]:
    packages = {factory_package(record) for record in records if record.distribution == USER}
    for package in sorted(packages - {"", "mova_core"}):
        if found := owner(package):
            yield found
