"""What experts need of the environment they are installed in."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.machinery import ModuleSpec

from mova_core.cards import entries, requirements


class Surroundings:
    """The packages around the experts, each looked up once: a thousand experts ask for the same few.

    Made anew for each discovery, since what is installed changes between two of them.
    """

    def __init__(self) -> None:
        self._spec = cache(entries.package_spec)
        self._met = cache(requirements.met)

    def package_spec(self, name: str) -> ModuleSpec | None:
        """Where a top-level package is, without importing it; None if it is nowhere."""
        return self._spec(name)

    def unmet(self, texts: Iterable[str]) -> list[str]:
        """The requirements, as pip reads them, that the environment does not meet."""
        return [text for text in texts if not self._met(text)]
