"""What a router decides for one sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Route:
    """The experts chosen for one image and question.

    Args:
        experts: chosen ids, the most probable first; empty means that the base encoder is enough.
        probabilities: for every expert that was offered, the probability the router gave it, in [0, 1].
        router: name of the router that decided, for reports.
    """

    experts: tuple[str, ...]
    probabilities: Mapping[str, float] = field(default_factory=dict)
    router: str = ""

    def __str__(self) -> str:
        return ", ".join(self.experts) or "none"
