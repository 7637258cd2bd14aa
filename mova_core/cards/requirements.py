"""Whether requirements are installed, judged from metadata alone."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata


def met(text: str) -> bool:
    """Whether this environment meets a requirement, as pip reads it; of an extra or another platform: yes."""
    from packaging.requirements import InvalidRequirement, Requirement

    from mova_core.cards.entries import owner_of

    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return False
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return True
    try:
        version = owner_of(metadata.distribution(requirement.name)).version
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def unmet(requirements: Iterable[str]) -> list[str]:
    """The requirements, as pip reads them, that this environment does not meet."""
    return [text for text in requirements if not met(text)]
