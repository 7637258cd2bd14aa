"""Routers that need no model: the points of comparison for every other one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from random import Random

from mova_core.errors import RoutingError, UnknownExpertError
from mova_core.routing.base import Candidate, ImageInput, candidates, check_pairs
from mova_core.routing.route import Route


class AllRouter:
    """Chooses every expert on offer, in the order of their ids."""

    name = "all"
    looks = False

    def route(
        self, images: Sequence[ImageInput], questions: Sequence[str], pool: Iterable[Candidate]
    ) -> list[Route]:
        """All experts for each pair; see `Router.route`."""
        check_pairs(images, questions)
        ids = tuple(candidate.id for candidate in candidates(pool))
        return [Route(ids, dict.fromkeys(ids, 1.0), self.name) for _ in questions]


class NoneRouter:
    """Chooses no expert: the base encoder alone."""

    name = "none"
    looks = False

    def route(
        self, images: Sequence[ImageInput], questions: Sequence[str], pool: Iterable[Candidate]
    ) -> list[Route]:
        """An empty route for each pair; see `Router.route`."""
        check_pairs(images, questions)
        ids = [candidate.id for candidate in candidates(pool)]
        return [Route((), dict.fromkeys(ids, 0.0), self.name) for _ in questions]


class FixedRouter:
    """Chooses the same experts whatever the question.

    Args:
        ids: the experts, the most important first.

    Raises:
        RoutingError: if an id stands twice.
    """

    name = "fixed"
    looks = False

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = tuple(ids)
        if len(set(self.ids)) < len(self.ids):
            raise RoutingError(
                "a fixed route names an expert twice", value=", ".join(self.ids), expected="distinct ids"
            )

    def route(
        self, images: Sequence[ImageInput], questions: Sequence[str], pool: Iterable[Candidate]
    ) -> list[Route]:
        """The fixed experts for each pair; see `Router.route`.

        Raises:
            UnknownExpertError: if one of them is not on offer, even where nothing is.
        """
        check_pairs(images, questions)
        offered = [candidate.id for candidate in candidates(pool)]
        for name in self.ids:
            if name not in offered:
                near = get_close_matches(name, offered, n=1)
                raise UnknownExpertError(
                    "no such expert is on offer",
                    value=name,
                    expected=f"one of {', '.join(offered) or 'no experts at all'}",
                    hint=f"Did you mean {near[0]}?" if near else "Run `mova experts list`.",
                )
        probabilities = {name: float(name in self.ids) for name in offered}
        return [Route(self.ids, probabilities, self.name) for _ in questions]


class RandomRouter:
    """Chooses experts by lot, the same number for every sample or as many as other routes hold.

    The n-th sample routed since construction has the n-th draw, however samples are batched.

    Args:
        count: how many for every sample (all, if the pool is smaller).
        like: routes whose numbers to copy, sample by sample, instead of `count`.
        seed: of the draws.

    Raises:
        RoutingError: unless exactly one of `count` and `like` is given, and a count is not negative.
    """

    name = "random"
    looks = False

    def __init__(
        self, count: int | None = None, *, like: Sequence[Route] | None = None, seed: int = 0
    ) -> None:
        if (count is None) == (like is None) or (count is not None and count < 0):
            raise RoutingError(
                "random routing needs one number of experts",
                value=f"count={count}, like={'given' if like is not None else None}",
                expected="either a count of at least 0, or routes to be like",
            )
        self._count = count
        self._sizes = None if like is None else [len(route.experts) for route in like]
        self._routed = 0
        self._rng = Random(seed)

    def route(
        self, images: Sequence[ImageInput], questions: Sequence[str], pool: Iterable[Candidate]
    ) -> list[Route]:
        """Random experts for each pair; see `Router.route`. An expert's probability is that of being drawn.

        Raises:
            RoutingError: also if there are more samples than routes to be like.
        """
        check_pairs(images, questions)
        ids = [candidate.id for candidate in candidates(pool)]
        return [self._draw(ids) for _ in questions]

    def _draw(self, ids: Sequence[str]) -> Route:
        size = min(self._next_size(), len(ids))
        probabilities = dict.fromkeys(ids, size / len(ids)) if ids else {}
        return Route(tuple(self._rng.sample(ids, size)), probabilities, self.name)

    def _next_size(self) -> int:
        if self._sizes is None:
            return self._count or 0
        if self._routed >= len(self._sizes):
            raise RoutingError(
                "random routing has run out of routes to be like",
                value=f"sample {self._routed + 1}",
                expected=f"at most {len(self._sizes)} samples",
            )
        self._routed += 1
        return self._sizes[self._routed - 1]
