"""Warnings about cards: what they say is odd, but an expert is not lost over it."""

from __future__ import annotations

import warnings


class CardWarning(UserWarning):
    """A card or a setting reads, but says something this toolkit does not know or would rather not see."""


def warn(message: str) -> None:
    """Warn; the message names the file or the setting."""
    warnings.warn(CardWarning(message), stacklevel=2)
