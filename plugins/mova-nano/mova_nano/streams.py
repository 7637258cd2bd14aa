"""The input stream that all encoders of mova-nano share, but for its size."""

from __future__ import annotations

from mova_core.cards.stream import InputStream

HALF = (0.5, 0.5, 0.5)
GRAY = (127, 127, 127)


def nano_stream(size: int) -> InputStream:
    """Gray padding to a square, `size` pixels a side, values in [-1, 1]."""
    return InputStream(size=(size, size), fit="pad", mean=HALF, std=HALF, pad_colour=GRAY)
