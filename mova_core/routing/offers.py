"""How the pool is put to a router: which wording of each expert, in which order.

Routing must not depend on chance, and training must not depend on one wording: the paper's router learns from
a pool that is shuffled, reworded and cut at random, and without that it fails on experts it has not met.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

from mova_core.errors import RoutingError
from mova_core.routing.base import Candidate, candidates

Order: TypeAlias = Literal["id", "pool"] | Sequence[str]
"""By id, as the pool comes, or ids in the order wanted; experts that are not named follow by id."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One expert as the router is told of it.

    Args:
        id: the expert; it never enters a prompt.
        description: the wording that does.
    """

    id: str
    description: str


def plain_offers(
    pool: Iterable[Candidate], order: Order = "id", descriptions: Mapping[str, str] | None = None
) -> tuple[Offer, ...]:
    """One wording of every expert, in a certain order.

    Args:
        pool: experts on offer.
        order: see `Order`. Ids that are not on offer are passed over, since a pool may be a part of the one
            that the order was made for.
        descriptions: by id, what to say of an expert instead of its own first wording.

    Raises:
        RoutingError: if two experts share an id, one has no description, or the order or a description given
            is unfit.
    """
    listed = tuple(pool)
    checked = candidates(listed)
    check_order(order)
    said = check_descriptions(descriptions)
    if order == "pool":
        ranked: Sequence[Candidate] = listed
    else:
        ranks = {} if order == "id" else {id: rank for rank, id in enumerate(order)}
        ranked = sorted(checked, key=lambda candidate: ranks.get(candidate.id, len(ranks)))  # stable
    return tuple(Offer(candidate.id, said.get(candidate.id, _wordings(candidate)[0])) for candidate in ranked)


def check_order(order: Order) -> Order:
    """A legal order, unchanged.

    Raises:
        RoutingError: if it is a word other than "id" and "pool", or names an expert twice.
    """
    if isinstance(order, str):
        if order not in ("id", "pool"):
            raise RoutingError(
                "no such order of labels", value=order, expected='"id", "pool", or ids in order'
            )
    elif len(set(order)) < len(order):
        raise RoutingError(
            "an order of labels names an expert twice", value=", ".join(order), expected="distinct ids"
        )
    return order


def check_descriptions(descriptions: Mapping[str, str] | None) -> Mapping[str, str]:
    """Descriptions by id, unchanged; none if none are given.

    Raises:
        RoutingError: if one of them says nothing.
    """
    for id, text in (descriptions or {}).items():
        if not text.strip():
            raise RoutingError("a description says nothing", value=id, expected="some words for this expert")
    return descriptions or {}


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
