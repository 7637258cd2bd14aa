"""From a card to a running expert: import the factory, find the weights, build.

Nothing is fetched here: weights that are not on this machine are an error that says what to type.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from mova_core.cards.card import ExpertCard
from mova_core.cards.resolve import import_factory
from mova_core.cards.weights import locate
from mova_core.errors import ExpertLoadError
from mova_core.experts.isolation.proxy import IsolatedExpert
from mova_core.experts.protocol import VisionExpert
from mova_core.experts.weights import check_sha256

Finder = Callable[[str], Path | None]
"""Finds the sources that cards alone cannot: `part:` and `https:`, kept by whoever fetched them."""


def load_expert(
    card: ExpertCard,
    *,
    device: torch.device,
    dtype: torch.dtype,
    beside: Path | None = None,
    find: Finder | None = None,
) -> VisionExpert:
    """Build the expert of a card with its weights.

    Args:
        card: what to load.
        device: where its parameters go.
        dtype: dtype of its parameters.
        beside: folder of the card, for weights that lie in the same package.
        find: where `part:` and `https:` sources were put.

    Returns:
        The expert, bound to its card; for isolation "process", what stands for it here.

    Raises:
        ExpertLoadError: the factory cannot be imported, the weights are absent or corrupt, or the card asks
            for a process of its own whose environment is not there.
    """
    weights = _weights(card, beside, find)
    if card.isolation == "process":
        return IsolatedExpert.start(card, weights, dtype=dtype, device=device)
    try:
        expert = expert_class(card).from_pretrained(weights, dtype=dtype, device=device, **card.options)
    except TypeError as error:
        if not card.options:
            raise
        raise ExpertLoadError(
            f"the options of {card.id} do not suit its factory",
            value=f"{', '.join(card.options)} ({error})",
            expected=f"arguments of {card.factory}",
            hint=f"Change the options in the card of {card.id}, or in the checkpoint's config.json.",
        ) from error
    return expert.bind(card)


def expert_class(card: ExpertCard) -> type[VisionExpert]:
    """The class that a card names.

    Raises:
        ExpertLoadError: it cannot be imported, or is no expert.
    """
    factory = import_factory(card)
    if not issubclass(factory, VisionExpert):
        raise ExpertLoadError("the factory is no expert", value=card.factory, expected="a VisionExpert class")
    return factory


def _weights(card: ExpertCard, beside: Path | None, find: Finder | None) -> str:
    """The first source of the card that is on this machine; "" for an expert without weights."""
    weights = card.weights
    for source in weights.sources:
        path = locate(source, beside=beside, revision=weights.revision) or (find(source) if find else None)
        if path is not None:
            if weights.sha256 and path.is_file():
                check_sha256(path, weights.sha256)
            return str(path)
    if not weights.sources:
        return ""
    raise ExpertLoadError(
        "the weights are not on this machine",
        value=", ".join(weights.sources),
        expected="one of them on disk",
        hint=_how_to_fetch(weights.sources[0], weights.revision),
    )


def _how_to_fetch(source: str, revision: str | None) -> str:
    scheme, _, place = source.partition(":")
    if scheme == "part":
        return f"Run `mova models pull {place.partition('/')[0]}`."
    if scheme == "hf":
        return f"Run `hf download {place}" + (f" --revision {revision}`." if revision else "`.")
    if scheme == "package":
        return "Install its distribution again."
    if scheme == "file":
        return f"Put the file at {place}."
    return f"Download {source} and name it in a card as file:PATH."
