"""The lock of the environment as it is now."""

from __future__ import annotations

from importlib import metadata

from pydantic import ValidationError

from mova_core.cards.discovery import card_directory, discover
from mova_core.cards.installed import Brought, factory_package, installed, owner, version
from mova_core.cards.lock import LockedDistribution, LockedExpert, LockedModel, PoolLock
from mova_core.cards.origins import origin_of
from mova_core.cards.records import USER, ExpertRecord
from mova_core.cards.weights import locate


def snapshot() -> tuple[PoolLock, list[str]]:
    """The pool of this environment.

    Returns:
        its lock, and what of it the lock cannot hold, a line each.
    """
    here, distributions, cards, missing = installed(), [], {}, []
    for found in here.values():
        try:
            distributions.append(_locked(found))
        except ValidationError:
            missing.append(
                f"{found.name} {found.version} is not in the lock: its metadata has no proper name"
            )
    for path in sorted(card_directory().glob("*.toml")):
        try:
            cards[path.name] = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            missing.append(f"your card {path} is not in the lock: {error}")
    lock = PoolLock(
        mova_core=version("mova-core") or "unknown", distributions=tuple(distributions), cards=cards
    )
    return lock, [*missing, *_missing(here)]


def _locked(found: Brought) -> LockedDistribution:
    return LockedDistribution(
        name=found.name,
        version=found.version or "unknown",
        origin=origin_of(_direct_url(found.name)),
        experts=tuple(map(_locked_expert, found.experts)),
        models=tuple(
            LockedModel(id=model.id, card_hash=model.card.hash if model.card else None)
            for model in found.models
        ),
    )


def _direct_url(name: str) -> str | None:
    try:
        return metadata.distribution(name).read_text("direct_url.json")
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _locked_expert(record: ExpertRecord) -> LockedExpert:
    if record.card is None:
        return LockedExpert(id=record.id)
    weights = record.card.weights
    return LockedExpert(
        id=record.id,
        card_hash=record.card.hash,
        revision=weights.revision,
        commit=_commit(record),
    )


def _commit(record: ExpertRecord) -> str | None:
    """The commit of the weights in the Hugging Face cache, from the first source that lies there."""
    if record.card is None:
        return None
    weights = record.card.weights
    for source in weights.sources:
        if source.startswith("hf:") and (folder := locate(source, revision=weights.revision)):
            return folder.name
    return None


def _missing(here: dict[str, Brought]) -> list[str]:
    experts = [record for found in here.values() for record in found.experts if record.card is None]
    models = [record for found in here.values() for record in found.models if record.card is None]
    unreadable = [
        f"{record.id} of {record.distribution} is {record.status}, its card not in the lock: {record.problem}"
        for record in (*experts, *models)
    ]
    own = {factory_package(record) for record in discover() if record.distribution == USER}
    loose = [
        f"the package {package}, which a card of yours names, belongs to no distribution; take it along"
        for package in sorted(own - {"", "mova_core"})
        if owner(package) is None
    ]
    return unreadable + loose
