"""Whether requirements are installed, judged from metadata alone."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata


def unmet(requirements: Iterable[str]) -> list[str]:
    """The requirements that this environment does not meet.

    Args:
        requirements: as pip reads them; those of extras and of other platforms count as met.
    """
    return [text for text in requirements if not _met(text)]


def _met(text: str) -> bool:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return False
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return True
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)
