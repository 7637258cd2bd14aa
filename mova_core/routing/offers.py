"""How the pool is put to a router: which wording of each expert, in which order.

Routing must not depend on chance, and training must not depend on one wording: the paper's router learns from
a pool that is shuffled, reworded and cut at random, and without that it fails on experts it has not met.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from random import Random
from typing import Literal

from mova_core.errors import RoutingError
from mova_core.routing.base import Candidate, candidates

Order = Literal["id", "pool"]


@dataclass(frozen=True, slots=True)
class Offer:
    """One expert as the router is told of it.

    Args:
        id: the expert; it never enters a prompt.
        description: the wording that does.
    """

    id: str
    description: str


def plain_offers(pool: Iterable[Candidate], order: Order = "id") -> tuple[Offer, ...]:
    """The first wording of every expert, sorted by id or in the order of the pool.

    Raises:
        RoutingError: if two experts share an id or one has no description.
    """
    listed = tuple(pool)
    checked = candidates(listed)
    return tuple(
        Offer(candidate.id, _wordings(candidate)[0]) for candidate in (checked if order == "id" else listed)
    )


def random_offers(
    pool: Iterable[Candidate], rng: Random, *, fewest: int = 1, keep: Collection[str] = ()
) -> tuple[Offer, ...]:
    """A training view of the pool: cut to a random part, shuffled, each expert in a random wording.

    Args:
        pool: experts on offer; their order does not matter, so that a seed means the same everywhere.
        rng: the only source of chance.
        fewest: the smallest number of experts left (or all, if the pool is smaller).
        keep: ids that are never cut.

    Raises:
        RoutingError: if an id to keep is not in the pool, or the pool cannot be offered.
    """
    offered = list(candidates(pool))
    missing = sorted(set(keep) - {candidate.id for candidate in offered})
    if missing:
        raise RoutingError(
            "an expert to keep is not on offer",
            value=", ".join(missing),
            expected=f"one of {', '.join(candidate.id for candidate in offered) or 'no experts at all'}",
        )
    rng.shuffle(offered)
    offered.sort(key=lambda candidate: candidate.id not in keep)  # stable: those to keep come first
    lower = min(max(fewest, len(set(keep))), len(offered))
    left = offered[: rng.randint(lower, len(offered))]
    rng.shuffle(left)
    return tuple(Offer(candidate.id, rng.choice(_wordings(candidate))) for candidate in left)


def _wordings(candidate: Candidate) -> list[str]:
    return [wording for wording in candidate.descriptions if wording.strip()]
