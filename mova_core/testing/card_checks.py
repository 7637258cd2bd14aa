"""What can be said against an expert's card without importing its code.

A card that reads is valid; these checks ask whether it is any good: whether the router is told enough, and
whether its numbers can be true.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mova_core.cards.card import ExpertCard
from mova_core.cards.manifest import descriptions_naming
from mova_core.testing.findings import Finding

WORDINGS: Final = 4
"""Descriptions that differ, at least: a router that meets one wording learns the wording."""

BYTES: Final = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Size of a parameter by dtype."""

_LEAST, _MOST, _SLACK_MB = 0.9, 3.0, 1.0
"""Memory as a share of what the parameters alone take: buffers come on top, and numbers are rounded."""

_SMALLEST_SIDE, _LARGEST_SIDE = 8, 8_192
_LEAST_SPAN, _LARGEST_SPAN = 0.25, 300.0
"""How far black and white may lie apart in a stream: about 4 is usual, 1 and 255 occur."""


def card_findings(card: ExpertCard) -> list[Finding]:
    """Everything that speaks against a card."""
    return [*wording_findings(card), *_licences(card), *_sizes(card), *_stream(card), *_grid(card)]


def wording_findings(card: ExpertCard) -> Iterator[Finding]:
    """What the router is told too little of, or must not be told; a base encoder is not offered to it."""
    if card.role == "base":
        return
    distinct = len({" ".join(words.lower().split()) for words in card.descriptions})
    if distinct < WORDINGS:
        yield Finding(
            card.id,
            f"{distinct} different description{'s' * (distinct != 1)}",
            f"write {WORDINGS} or more, in different words: what it is good at, and what not",
        )
    for number in descriptions_naming(card):
        yield Finding(
            card.id, f"description {number} names the expert", "say what it does; the name says nothing"
        )
    if not card.example_questions:
        yield Finding(card.id, "no example questions", "write some questions that it helps with")


def _licences(card: ExpertCard) -> Iterator[Finding]:
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    for key, licence in (
        ("[expert] code_licence", card.code_licence),
        ("[weights] licence", card.weights.licence),
    ):
        try:
            canonicalize_license_expression(licence)
        except InvalidLicenseExpression:
            yield Finding(
                card.id,
                f"`{key}` is no SPDX expression; got {licence}",
                "write one such as Apache-2.0, or LicenseRef-NAME for a licence of its own",
            )


def _sizes(card: ExpertCard) -> Iterator[Finding]:
    if bool(card.parameters) != bool(card.weights.sources):
        got = f"{card.parameters:,} parameters and {len(card.weights.sources)} sources of weights"
        yield Finding(card.id, got, "name both in the card, or neither for an expert without weights")
    for dtype, listed in card.memory_mb.items():
        if dtype not in BYTES:
            yield Finding(
                card.id, f"`[memory_mb] {dtype}` is no dtype of parameters", f"use {', '.join(BYTES)}"
            )
            continue
        needed = card.parameters * BYTES[dtype] / 2**20
        if not needed * _LEAST - _SLACK_MB <= listed <= needed * _MOST + _SLACK_MB:
            needs = f"{card.parameters:,} parameters take {needed:.1f} MiB"
            yield Finding(
                card.id,
                f"`[memory_mb] {dtype}` is {listed:g}, but {needs}",
                "correct `[expert] parameters` or `[memory_mb]`",
            )


def _stream(card: ExpertCard) -> Iterator[Finding]:
    stream = card.input
    if stream.size and not all(_SMALLEST_SIDE <= side <= _LARGEST_SIDE for side in stream.size):
        yield Finding(
            card.id,
            f"`[input] size` is {list(stream.size)}",
            f"give [height, width] in pixels, {_SMALLEST_SIDE} to {_LARGEST_SIDE:,}",
        )
    white = 255 * stream.scale
    for mean, std in zip(stream.mean or (), stream.std or (), strict=True):
        if not -0.5 * white <= mean <= 1.5 * white or not _LEAST_SPAN <= white / std <= _LARGEST_SPAN:
            yield Finding(
                card.id,
                f"`[input]` turns pixels 0 to 255 into {-mean / std:.4g} to {(white - mean) / std:.4g}",
                "give mean and std in the range that `scale` makes (0 to 1 unless the card says otherwise)",
            )
            return


def _grid(card: ExpertCard) -> Iterator[Finding]:
    grid = card.features.grid
    if grid == "dynamic":
        return
    height, width = grid
    size, patches = card.input.size, card.input.patches
    if card.input.kind == "pixels" and size and (height > size[0] or width > size[1]):
        got = f"a grid of {height}x{width} of a picture of {size[0]}x{size[1]} pixels"
        yield Finding(card.id, got, "correct `[features] grid` or `[input] size`: no token is below a pixel")
    if patches is not None and height * width > patches:
        got = f"a grid of {height}x{width} of {patches} patches"
        yield Finding(card.id, got, "correct `[features] grid` or `[input] patches`")
