"""Input streams of published models.

In a MoVA, features of one place must come from one place of the picture, so every expert sees the whole
picture on a square, as the base encoder does: `fit = "pad"`. What a publisher evaluated with, mostly a centre
crop, can be asked for; numbers then equal the publisher's, and the borders of a picture are not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from mova_core.cards.stream import InputStream
from mova_core.errors import ExpertLoadError

Fit = Literal["pad", "crop", "stretch"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


def pixel_stream(
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    interpolation: str,
    scale: float = 1 / 255,
    fit: Fit = "pad",
    crop_ratio: float = 1.0,
) -> InputStream:
    """A stream of pixels.

    Args:
        size: (h, w).
        mean, std: by channel.
        interpolation: name of the filter.
        scale: factor that brings 0..255 to the range of mean and std.
        fit: "pad" fills a square with the mean colour.
        crop_ratio: for "crop".

    Raises:
        ExpertLoadError: pictures cannot be resized with this filter here.
    """
    if interpolation not in ("nearest", "bilinear", "bicubic", "lanczos"):
        raise ExpertLoadError(
            "pictures cannot be resized this way",
            value=f"interpolation {interpolation!r}",
            expected="nearest, bilinear, bicubic or lanczos",
        )
    red, green, blue = (min(max(int(value / scale), 0), 255) for value in mean)
    return InputStream(
        size=size,
        fit=fit,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        scale=scale,
        interpolation=cast(Interpolation, interpolation),
        pad_colour=(red, green, blue) if fit == "pad" else None,
        crop_ratio=crop_ratio if fit == "crop" else 1.0,
    )


def timm_stream(
    settings: Mapping[str, Any], *, size: tuple[int, int] | None = None, fit: Fit = "pad"
) -> InputStream:
    """The stream of a timm model.

    Args:
        settings: the model's `pretrained_cfg`.
        size: (h, w) in pixels; None is the model's own.
        fit: "crop" is what timm evaluates with.
    """
    _, height, width = settings["input_size"]
    return pixel_stream(
        size or (height, width),
        settings["mean"],
        settings["std"],
        interpolation=settings["interpolation"],
        fit=fit,
        crop_ratio=settings["crop_pct"],
    )
