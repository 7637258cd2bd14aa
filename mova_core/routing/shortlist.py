"""A large pool cut to its most fitting experts before a router reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from mova_core.routing.base import Candidate, ImageInput, Router, candidates, check_limit, check_pairs, looks
from mova_core.routing.eager import Decided, route_in_steps, tell_nobody
from mova_core.routing.route import Route
from mova_core.routing.similarity import Encode, similarities


class ShortlistRouter:
    """Offers another router only the m experts whose descriptions are most like the question.

    Experts left out have probability zero. A pool of at most m experts is passed on whole.

    Args:
        router: decides among those that are left.
        encode: a sentence encoder, as for `SimilarityRouter`.
        size: m, at least 1.

    Raises:
        RoutingError: if the size is below one.
    """

    def __init__(self, router: Router, encode: Encode, size: int) -> None:
        self.router = router
        self.encode = encode
        self.size = check_limit(size)

    @property
    def looks(self) -> bool:
        """Whether the other router reads images."""
        return looks(self.router)

    def route(
        self, images: Sequence[ImageInput], questions: Sequence[str], pool: Iterable[Candidate]
    ) -> list[Route]:
        """Choose experts for each pair of image and question; see `Router.route`.

        Samples with the same shortlist are routed together.
        """
        return self.route_in_steps(images, questions, pool, tell_nobody)

    @torch.no_grad()
    def route_in_steps(
        self,
        images: Sequence[ImageInput],
        questions: Sequence[str],
        pool: Iterable[Candidate],
        decided: Decided,
    ) -> list[Route]:
        """As `route`; the steps are those of the other router, one shortlist after the other."""
        check_pairs(images, questions)
        listed = tuple(pool)
        offered = candidates(listed)
        if len(offered) <= self.size:
            return route_in_steps(self.router, images, questions, listed, decided)
        scores = similarities(self.encode, questions, offered)  # [b, e]
        best = scores.argsort(dim=1, descending=True, stable=True)[:, : self.size]  # [b, m], ties by id
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, shortlist in enumerate(best.sort(dim=1).values.tolist()):
            groups.setdefault(tuple(shortlist), []).append(row)
        routes: dict[int, Route] = {}
        for shortlist, rows in groups.items():
            kept = {offered[place].id for place in shortlist}
            short = [candidate for candidate in listed if candidate.id in kept]
            seen, asked = [images[row] for row in rows], [questions[row] for row in rows]
            found = route_in_steps(self.router, seen, asked, short, _of_rows(rows, decided))
            routes.update(zip(rows, found, strict=True))
        left_out = {candidate.id: 0.0 for candidate in offered}
        return [
            Route(route.experts, {**left_out, **route.probabilities}, f"shortlist+{route.router}")
            for _, route in sorted(routes.items())
        ]


def _of_rows(rows: Sequence[int], decided: Decided) -> Decided:
    """Tells what is decided of some rows of a batch by their places in it."""
    return lambda chosen: decided({rows[place]: id for place, id in chosen.items()})
