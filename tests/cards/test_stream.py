"""Input streams: what belongs together, and when two experts share a tensor."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mova_core.cards.stream import InputStream

PIXELS: dict[str, Any] = {
    "size": (8, 8),
    "fit": "stretch",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}
PATCHES: dict[str, Any] = {"kind": "patches", "fit": "keep", "patches": 2025, "patch_size": 16}


def test_equal_streams_have_one_hash_and_serve_as_a_key() -> None:
    one, other = InputStream(**PIXELS), InputStream(**dict(reversed(PIXELS.items())))
    assert one.hash == other.hash
    assert {one: "shared"}[other] == "shared"


@pytest.mark.parametrize(
    "change",
    [
        {"size": (8, 9)},
        {"mean": (0.5, 0.5, 0.4)},
        {"std": (0.5, 0.5, 0.4)},
        {"scale": 1.0},
        {"interpolation": "nearest"},
        {"fit": "crop"},
        {"fit": "crop", "crop_ratio": 0.875},
        {"fit": "pad", "pad_colour": (0, 0, 0)},
    ],
)
def test_whatever_changes_a_pixel_changes_the_hash(change: dict[str, Any]) -> None:
    assert InputStream(**PIXELS | change).hash != InputStream(**PIXELS).hash


@pytest.mark.parametrize("missing", ["size", "mean", "std", "fit"])
def test_pixels_need_size_and_statistics(missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        InputStream(**{name: value for name, value in PIXELS.items() if name != missing})


@pytest.mark.parametrize("missing", ["patches", "patch_size"])
def test_patches_need_their_number_and_size(missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        InputStream(**{name: value for name, value in PATCHES.items() if name != missing})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (PIXELS | {"patches": 4}, "has no 'patches'"),
        (PIXELS | {"fit": "keep"}, "'keep' is for kind 'patches'"),
        (PIXELS | {"fit": "pad"}, "needs 'pad_colour'"),
        (PIXELS | {"pad_colour": (0, 0, 0)}, "nothing else does"),
        (PIXELS | {"crop_ratio": 0.5}, "is for fit 'crop'"),
        (PIXELS | {"std": (0.5, 0.0, 0.5)}, "greater than 0"),
        (PIXELS | {"mean": (0.5, float("nan"), 0.5)}, "finite"),
        (PATCHES | {"mean": (0.5, 0.5, 0.5)}, "has no 'mean'"),
    ],
)
def test_what_does_not_belong_together_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        InputStream(**fields)
