"""The pictures of one call, each hashed once and prepared once for each distinct input stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from mova_core.errors import ExpertRunError
from mova_core.experts.images import image_digest, load_image
from mova_core.experts.protocol import VisionExpert


class ImageBatch:
    """Pictures of one call to the pool.

    Args:
        images: the pictures of the batch; equal ones are prepared once.

    Attributes:
        digests: the name of each picture's content, in batch order.

    Raises:
        InputError: a picture cannot be decoded.
    """

    def __init__(self, images: Sequence[Image.Image]) -> None:
        pictures = [load_image(image) for image in images]
        self.digests = tuple(image_digest(picture) for picture in pictures)
        self._pictures = dict(zip(self.digests, pictures, strict=True))
        self._streams: dict[tuple[object, str], dict[str, Tensor]] = {}

    def stream(self, expert: VisionExpert, digests: Sequence[str]) -> Tensor:
        """The expert's stream for some pictures of the batch.

        Experts with equal streams and the same `preprocess` share the work.

        Args:
            expert: who will read the stream.
            digests: names of the pictures, in the order wanted.

        Returns:
            One row a picture, on the CPU.

        Raises:
            ExpertRunError: `preprocess` gave another number of rows than pictures.
        """
        ready = self._streams.setdefault((expert.prepared_by, expert.stream.hash), {})
        missing = [digest for digest in digests if digest not in ready]
        if missing:
            rows = expert.preprocess([self._pictures[digest] for digest in missing])
            if len(rows) != len(missing):
                raise ExpertRunError(
                    f"expert {expert.card.id!r} prepared a wrong number of rows",
                    value=len(rows),
                    expected=f"{len(missing)}, one a picture",
                )
            ready.update(zip(missing, rows, strict=True))
        return torch.stack([ready[digest] for digest in digests])
