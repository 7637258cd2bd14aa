"""Routing by likeness of words: the question against the descriptions, in a sentence encoder's space.

Notation for tensor shapes:
    b: samples, e: experts, w: wordings of all experts, d: width of the sentence encoder
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mova_core.errors import RoutingError
from mova_core.routing.base import (
    MAX_EXPERTS,
    Candidate,
    ImageInput,
    candidates,
    check_limit,
    check_pairs,
    choose,
)
from mova_core.routing.route import Route

Encode: TypeAlias = Callable[[Sequence[str]], Tensor]
"""Turns n texts into features [n, d]."""


def similarities(encode: Encode, questions: Sequence[str], pool: Sequence[Candidate]) -> Tensor:
    """Cosine of each question to each expert's closest wording.

    Args:
        encode: the sentence encoder.
        questions: b of them.
        pool: e experts.

    Returns:
        [b, e], float32 on the CPU, in [-1, 1].
    """
    if not questions or not pool:
        return torch.zeros(len(questions), len(pool))
    wordings = [wording for candidate in pool for wording in candidate.descriptions]
    asked = normalize(encode(questions).float(), dim=-1)  # [b, d]
    told = normalize(encode(wordings).float(), dim=-1)  # [w, d]
    cosines = (asked @ told.T).clamp(-1, 1).cpu()  # [b, w]
    ends = torch.tensor([len(candidate.descriptions) for candidate in pool]).cumsum(0)
    own = cosines.tensor_split(ends[:-1], dim=1)  # e times [b, wordings of one expert]
    return torch.stack([likeness.amax(dim=1) for likeness in own], dim=1)  # [b, e]


class SimilarityRouter:
    """Chooses up to k experts whose descriptions are like the question; it does not see the image.

    The probability of an expert is (1 + cosine) / 2: a rank in [0, 1], not a frequency.

    Args:
        encode: a sentence encoder, MiniLM in practice.
        k: the most experts a route may hold.
        threshold: cosine in [-1, 1] above which an expert is chosen.

    Raises:
        RoutingError: if k or the threshold is out of range.
    """

    name = "similarity"
    looks = False

    def __init__(self, encode: Encode, *, k: int = MAX_EXPERTS, threshold: float = 0.25) -> None:
        if not -1 <= threshold <= 1:
            raise RoutingError("no cosine can be the threshold", value=threshold, expected="one in [-1, 1]")
        self.encode = encode
        self.k = check_limit(k)
        self.threshold = threshold

    @torch.no_grad()
    def route(
        self, images: Sequence[ImageInput], questions: Sequence[str], pool: Iterable[Candidate]
    ) -> list[Route]:
        """Choose experts for each question; see `Router.route`."""
        check_pairs(images, questions)
        offered = candidates(pool)
        routes = []
        for row in similarities(self.encode, questions, offered).tolist():
            p = {candidate.id: (1 + cosine) / 2 for candidate, cosine in zip(offered, row, strict=True)}
            routes.append(Route(choose(p, self.k, (1 + self.threshold) / 2), p, self.name))
        return routes
