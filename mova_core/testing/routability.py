"""How well a model's router tells an expert from its siblings by what their cards say.

Every example question of every expert is asked of one even grey picture. A router was never trained without a
picture, so leaving it out would measure a case that does not occur; a grey one is the same for all questions
and speaks for no expert, so what differs is the words. Real pictures usually make the choice easier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mova_core.cards.card import ExpertCard
from mova_core.routing.route import Route

GREY = (127, 127, 127)
SIDE = 256

Ask = Callable[[str], Route]
"""Routes one question about the grey picture over the whole pool."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many of some questions went to an expert.

    Args:
        chosen: questions that did.
        asked: all of them.
    """

    chosen: int
    asked: int

    @property
    def value(self) -> float | None:
        """From 0 to 1; None if nothing was asked."""
        return self.chosen / self.asked if self.asked else None


@dataclass(frozen=True, slots=True)
class Routability:
    """How one expert is routed to.

    Args:
        expert: its id.
        own: its own example questions that went to it.
        others: the other experts' example questions that did.
        confused_with: the sibling that most of its own questions went to which did not go to it; None if
            there were none, or they went to no expert.
        confused: how many those are.
    """

    expert: str
    own: Share
    others: Share
    confused_with: str | None
    confused: int


def routability(ask: Ask, pool: Sequence[ExpertCard], experts: Iterable[str]) -> list[Routability]:
    """Ask every question of the pool once, and count.

    Args:
        ask: routes a question over `pool`.
        pool: cards of all experts on offer.
        experts: ids of those to report on.

    Returns:
        One report for each of `experts`, in order.
    """
    asked = [(card.id, ask(question).experts) for card in pool for question in card.example_questions]
    return [_report(expert, asked) for expert in experts]


def _report(expert: str, asked: Sequence[tuple[str, tuple[str, ...]]]) -> Routability:
    own = [route for owner, route in asked if owner == expert]
    others = [route for owner, route in asked if owner != expert]
    instead = Counter(sibling for route in own if expert not in route for sibling in route)
    # The most frequent, and of equally frequent ones the first by id: the pool's order does not matter.
    sibling = min(instead, key=lambda id: (-instead[id], id), default=None)
    return Routability(
        expert,
        Share(sum(expert in route for route in own), len(own)),
        Share(sum(expert in route for route in others), len(others)),
        sibling,
        instead[sibling] if sibling else 0,
    )
