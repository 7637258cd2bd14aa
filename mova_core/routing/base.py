"""What every router is given and what it gives back.

Notation for tensor shapes:
    n_r: routing tokens of one image, d: width of the language model
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

from PIL.Image import Image
from torch import Tensor

from mova_core.errors import RoutingError
from mova_core.routing.route import Route

ImageInput: TypeAlias = Image | Tensor
"""A picture, or its routing tokens [n_r, d] when something has looked at it already."""

MAX_EXPERTS = 3
"""The most experts a route may hold unless a router is told otherwise, as in the paper."""


class Candidate(Protocol):
    """An expert as a router sees it: an id for the answer, wordings for the question."""

    @property
    def id(self) -> str:
        """Name of the expert, unique in its pool."""

    @property
    def descriptions(self) -> Sequence[str]:
        """What the expert is good at, in one or more wordings; the first one is the standard."""


class Router(Protocol):
    """Decides which experts look at an image before a question about it is answered.

    A router that never reads images may say so with an attribute `looks = False`: then nobody prepares
    routing tokens for it.
    """

    def route(
        self, images: Sequence[ImageInput], questions: Sequence[str], pool: Iterable[Candidate]
    ) -> list[Route]:
        """Choose experts for each pair of image and question.

        Args:
            images: pictures or their routing tokens.
            questions: one for each image.
            pool: the experts on offer to all of them. An empty pool gives empty routes.

        Returns:
            One route for each pair, in order.

        Raises:
            RoutingError: if there are not as many questions as images, or the pool cannot be offered.
        """


def looks(router: Router) -> bool:
    """Whether a router reads images, as it does unless it says otherwise."""
    return bool(getattr(router, "looks", True))


def candidates(pool: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The pool in the order of its ids, checked.

    Raises:
        RoutingError: if two experts share an id or one has no description.
    """
    offered = tuple(sorted(pool, key=lambda candidate: candidate.id))
    for left, right in zip(offered, offered[1:], strict=False):
        if left.id == right.id:
            raise RoutingError(
                "two experts of one pool share an id",
                value=left.id,
                expected="distinct ids",
                hint="Run `mova experts list` to see which distributions bring it.",
            )
    for candidate in offered:
        if not any(wording.strip() for wording in candidate.descriptions):
            raise RoutingError(
                "an expert without a description cannot be offered",
                value=candidate.id,
                expected="at least one description in its card",
                hint=f"Run `mova experts describe {candidate.id}`.",
            )
    return offered


def check_pairs(images: Sequence[ImageInput], questions: Sequence[str]) -> None:
    """Refuse anything but one question for each image.

    Raises:
        RoutingError: if the lengths differ.
    """
    if len(images) != len(questions):
        raise RoutingError(
            "images and questions do not pair up",
            value=f"{len(images)} images and {len(questions)} questions",
            expected="one question for each image",
        )


def check_limit(k: int) -> int:
    """A legal largest number of experts, unchanged.

    Raises:
        RoutingError: if it is below one.
    """
    if k < 1:
        raise RoutingError("a route must have room for an expert", value=k, expected="k of at least 1")
    return k


def choose(probabilities: Mapping[str, float], k: int, threshold: float) -> tuple[str, ...]:
    """Up to k ids whose probability is above a threshold: the most probable first, ties by id."""
    ranked = sorted(probabilities, key=lambda name: (-probabilities[name], name))
    return tuple(name for name in ranked[:k] if probabilities[name] > threshold)
