"""From pictures to the tokens a router reads.

Notation for tensor shapes:
    b: pictures, n_r: routing tokens of one image, d: width of a token
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from PIL.Image import Image
from torch import Tensor

from mova_core.errors import RoutingError
from mova_core.routing.base import ImageInput

See: TypeAlias = Callable[[Sequence[Image]], Tensor]
"""Looks at b pictures and gives their routing tokens [b, n_r, d]."""


def routing_tokens(images: Sequence[ImageInput], width: int, see: See | None = None) -> list[Tensor]:
    """Routing tokens of each image; pictures are looked at together, ready tokens are passed on.

    Args:
        images: pictures or tokens [n_r, d].
        width: the d that is needed.
        see: what looks at pictures; needed only if there is one.

    Returns:
        A tensor [n_r, d] for each image.

    Raises:
        RoutingError: if a picture has no one to look at it, or tokens have another shape.
    """
    pictures = [image for image in images if not isinstance(image, Tensor)]
    if pictures and see is None:
        raise RoutingError(
            "this router was given a picture but cannot see",
            value=f"{len(pictures)} pictures",
            expected="routing tokens [n_r, d], or a router built with `see`",
        )
    seen = iter(see(pictures) if pictures and see else ())
    tokens = [image if isinstance(image, Tensor) else next(seen) for image in images]
    for image in tokens:
        if image.dim() != 2 or image.shape[1] != width:
            raise RoutingError(
                "routing tokens do not fit this router",
                value=f"a tensor of shape {list(image.shape)}",
                expected=f"[n_r, {width}]",
            )
    return tokens
