"""What a question gets back.

Notation for tensor shapes:
    l: blocks of the adapter, h, w: sides of the base grid
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from mova_core.model.timeline import Event
from mova_core.routing.route import Route


@dataclass(frozen=True, slots=True, eq=False)
class ImageTrace:
    """How one image of a conversation was looked at.

    Args:
        route: the experts chosen for it, with the router's probabilities.
        gates: for every chosen expert its weight in each block of the adapter, 0 to 1.
        attention: where each expert's features were read, [l, h, w], summing to one in each block; filled
            when asked.
    """

    route: Route
    gates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    attention: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """An answer and how it came about.

    Args:
        text: the answer.
        images: one trace for each image of the conversation, in order.
        seconds: wall time by step: "look", "route", "experts", "fuse", "answer".
        skipped: experts that were routed to and failed, with the reason (`on_expert_error="skip"` only).
        timeline: what was done when and where, in the order it began; for the whole batch, as `seconds`.
    """

    text: str
    images: tuple[ImageTrace, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    timeline: tuple[Event, ...] = ()

    @property
    def route(self) -> Route:
        """The route of the latest image; an empty one without images."""
        return self.images[-1].route if self.images else Route(())

    def __str__(self) -> str:
        return self.text
