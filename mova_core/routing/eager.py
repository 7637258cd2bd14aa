"""Routers that say who is chosen before a route is complete, so that experts can start meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from mova_core.routing.base import Candidate, ImageInput, Router
from mova_core.routing.route import Route

Decided: TypeAlias = Callable[[Mapping[int, str]], None]
"""Told after every step of a router which expert it chose for which pair, by the pair's place in the batch.

Whoever is told of stands in that pair's route. A step that chose nobody gives an empty mapping.
"""


def tell_nobody(decided: Mapping[int, str]) -> None:
    """The `Decided` of those who wait for whole routes."""


@runtime_checkable
class EagerRouter(Router, Protocol):
    """A router that decides in steps."""

    def route_in_steps(
        self,
        images: Sequence[ImageInput],
        questions: Sequence[str],
        pool: Iterable[Candidate],
        decided: Decided,
    ) -> list[Route]:
        """As `route`, and tells what each step has decided as soon as it is known."""


def route_in_steps(
    router: Router,
    images: Sequence[ImageInput],
    questions: Sequence[str],
    pool: Iterable[Candidate],
    decided: Decided,
) -> list[Route]:
    """Route with any router; one that does not decide in steps tells nothing."""
    if isinstance(router, EagerRouter):
        return router.route_in_steps(images, questions, pool, decided)
    return router.route(images, questions, pool)
