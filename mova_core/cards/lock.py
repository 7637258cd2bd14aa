"""A lock: the pool of one environment, written down so that another can be made the same and compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import ValidationError

from mova_core.cards.origins import Origin
from mova_core.cards.sources import DistributionName
from mova_core.cards.spec import Sha256, Spec, written_as
from mova_core.errors import ConfigError

FORMAT: Final = 1
"""Version of the form of locks."""

CardFile = Annotated[str, written_as(r"[^/\\\0]+\.toml", "the name of a *.toml file, without a folder")]
Version = Annotated[str, written_as(r"\S+", "a version")]


class LockedExpert(Spec):
    """One expert of a distribution.

    Args:
        id: its name.
        card_hash: of its card; None if that could not be read.
        revision: of its weights, as the card says.
        commit: of its weights in the Hugging Face cache, which a card that names a branch leaves open.
    """

    id: str
    card_hash: Sha256 | None = None
    revision: str | None = None
    commit: str | None = None


class LockedModel(Spec):
    """One model of a distribution; its card names the versions and digests of all its parts."""

    id: str
    card_hash: Sha256 | None = None


class LockedDistribution(Spec):
    """One distribution, where it came from and what it brings."""

    name: DistributionName
    version: Version
    origin: Origin
    experts: tuple[LockedExpert, ...] = ()
    models: tuple[LockedModel, ...] = ()


class PoolLock(Spec):
    """The pool of one environment.

    Args:
        format: version of this form.
        mova_core: version of mova-core.
        distributions: those that bring experts, models or behaviour, by name.
        cards: the user's own cards, text by file name.
    """

    format: Literal[1] = FORMAT
    mova_core: Version
    distributions: tuple[LockedDistribution, ...] = ()
    cards: dict[CardFile, str] = {}

    def text(self) -> str:
        """The lock as a file holds it."""
        plain = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def parse_lock(text: str | bytes, place: str) -> PoolLock:
    """Read a lock.

    Args:
        text: the file's content.
        place: where it is from, for messages.

    Raises:
        ConfigError: it is no lock, or of another format.
    """
    try:
        return PoolLock.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(step) for step in first["loc"])
        raise ConfigError(
            f"{place} is no lock that this version can read: {key + ': ' if key else ''}{first['msg']}",
            hint="`mova experts freeze` writes one.",
        ) from error


def outdated(locked: LockedDistribution, here: LockedDistribution | None) -> Iterator[str]:
    """How an installed distribution differs from a locked one in what installing it again can mend."""
    name = locked.name
    if here is None:
        yield f"{name}: {locked.version} in the lock, not installed"
        return
    if here.version != locked.version:
        yield f"{name}: {locked.version} in the lock, {here.version} here"
    then, now = locked.origin, here.origin
    if then.kind == "git" and (now.kind != "git" or now.revision != then.revision):
        found = f"commit {now.revision}" if now.kind == "git" else f"from a {now.kind}"
        yield f"{name}: commit {then.revision} in the lock, {found} here"
    if then.kind in ("index", "archive") and now.kind == then.kind and _both_differ(then.sha256, now.sha256):
        yield f"{name}: file {_short(then.sha256)} in the lock, {_short(now.sha256)} here"
    yield from _cards_differ("expert", locked.experts, here.experts)
    yield from _cards_differ("model", locked.models, here.models)


def differences(lock: PoolLock, here: PoolLock) -> list[str]:
    """All that this environment lacks of a lock or has otherwise, a line each. More than the lock is fine."""
    found = []
    if lock.mova_core != here.mova_core:
        found.append(f"mova-core: {lock.mova_core} in the lock, {here.mova_core} here")
    present = {distribution.name: distribution for distribution in here.distributions}
    for locked in lock.distributions:
        found += outdated(locked, present.get(locked.name))
        if locked.name in present:
            found += _weights_differ(locked.experts, present[locked.name].experts)
    for name, text in lock.cards.items():
        if here.cards.get(name) != text:
            found.append(f"card {name}: {'another text here' if name in here.cards else 'not here'}")
    return found


def _cards_differ(
    what: str,
    locked: tuple[LockedExpert, ...] | tuple[LockedModel, ...],
    here: tuple[LockedExpert, ...] | tuple[LockedModel, ...],
) -> Iterator[str]:
    found = {record.id: record for record in here}
    for then in locked:
        if (now := found.get(then.id)) is None:
            yield f"{what} {then.id}: not here"
        elif then.card_hash and now.card_hash != then.card_hash:
            yield f"{what} {then.id}: card {_short(then.card_hash)} in the lock, {_short(now.card_hash)} here"


def _weights_differ(locked: tuple[LockedExpert, ...], here: tuple[LockedExpert, ...]) -> Iterator[str]:
    found = {expert.id: expert for expert in here}
    for then in locked:
        now = found.get(then.id)
        if now is None or now.card_hash is None or then.card_hash is None:
            continue
        if then.revision != now.revision:
            yield f"expert {then.id}: weights of revision {then.revision} in the lock, {now.revision} here"
        if _both_differ(then.commit, now.commit):
            yield f"expert {then.id}: weights of commit {then.commit} in the lock, {now.commit} on disk here"


def _both_differ(then: str | None, now: str | None) -> bool:
    """Whether two values differ that need not be known."""
    return None not in (then, now) and then != now


def _short(digest: str | None) -> str:
    return f"sha256 {digest[:12]}..." if digest else "unreadable"
