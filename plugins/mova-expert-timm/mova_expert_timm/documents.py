"""Cards as their TOML file has them, from what is known of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from mova_core.cards.card import ExpertCard
from mova_core.cards.stream import InputStream
from mova_core.cards.validation import validated
from mova_core.errors import ExpertRunError, MovaError
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert

_BYTES = {"float32": 4, "bfloat16": 2}
_NON_COMMERCIAL = re.compile(r"\bnc\b|non-?commercial", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Published:
    """A model as its publisher describes it.

    Args:
        name: what people call it; the id is made of it.
        source: of its weights, as cards write it.
        revision: of the weights.
        library: whose code it is.
        licence: as the publisher words it.
        paper: a reference.
        remark: what is worth knowing of the files.
    """

    name: str
    source: str
    library: str
    revision: str | None = None
    licence: str | None = None
    paper: str | None = None
    remark: str | None = None


@dataclass(frozen=True, slots=True)
class Wording:
    """What its user says of an expert.

    Args:
        id: None makes one of the model's name.
        descriptions: what the router is told.
        example_questions: questions it helps with.
        title: None makes one of the model's name.
    """

    id: str | None
    descriptions: Sequence[str]
    example_questions: Sequence[str] = ()
    title: str | None = None


def document(
    published: Published, wording: Wording, expert: VisionExpert, *, factory: str, stream: InputStream
) -> dict[str, Any]:
    """A card for an expert.

    Args:
        published: what its publisher says of it.
        wording: what its user says of it.
        expert: built on the meta device, reading pictures of the stream's size.
        factory: `module:Class` of its code.
        stream: how it wants its pictures.

    Returns:
        Tables by name; entries that are None are to be left out.

    Raises:
        CardError: the words do not make a card.
        ExpertRunError: the expert gives no features.
    """
    features = _features(expert, stream)
    parameters = sum(parameter.numel() for parameter in expert.parameters())
    memory = {dtype: round(parameters * size / 2**20, 1) for dtype, size in _BYTES.items()}
    made: dict[str, Any] = {
        "expert": {
            "api_version": 1,
            "id": wording.id or re.sub(r"[^a-z0-9]+", "-", published.name.lower()).strip("-"),
            "role": "expert",
            "title": wording.title or f"{published.name} of {published.library}",
            "factory": factory,
            "parameters": parameters,
            "paper": published.paper,
            "code_licence": "Apache-2.0",
            "descriptions": list(wording.descriptions),
            "example_questions": list(wording.example_questions),
        },
        "input": stream.model_dump(mode="json", exclude_none=True),
        "features": {"channels": features.channels, "grid": list(features.grid)},
        "memory_mb": memory,
        "weights": {
            "sources": [published.source],
            "revision": published.revision,
            "licence": spdx(published.licence),
            "notice": _notice(published.licence),
            "remark": published.remark,
        },
    }
    validated(ExpertCard, made, main="expert", path=f"the card of {published.source}")
    return made


def spdx(licence: str | None) -> str:
    """A licence as an SPDX expression: what a publisher wrote, or a reference to a licence of its own."""
    if not licence or licence.lower() in ("other", "unknown"):
        return "LicenseRef-unstated"
    try:
        return str(canonicalize_license_expression(licence))
    except InvalidLicenseExpression:
        return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.]+", "-", licence).strip("-")


def _notice(licence: str | None) -> str | None:
    known = spdx(licence)
    if known == "LicenseRef-unstated":
        return "No licence of the weights is known: read what their publisher says."
    if _NON_COMMERCIAL.search(known):
        return f"The weights are licensed {known}: not for commercial use."
    if known.startswith("LicenseRef-"):
        return f"The weights have a licence of their own, {licence}: read its terms."
    return None


def _features(expert: VisionExpert, stream: InputStream) -> ExpertFeatures:
    """What a meta forward gives, of shapes only."""
    pixels = torch.empty(1, 3, *(stream.size or ()), device="meta")
    try:
        features: ExpertFeatures = expert(pixels)
    except MovaError:
        raise
    except Exception as error:  # networks raise whatever an odd size provokes
        raise ExpertRunError(
            "the network cannot read pictures of this size",
            value=f"size {list(stream.size or ())}: {type(error).__name__}: {error}",
        ) from error
    return features
