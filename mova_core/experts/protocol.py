"""What an expert is: a frozen vision encoder behind four methods.

Notation for tensor shapes:
    b: pictures, h, w: stream in pixels, n: tokens of the feature grid, c: feature channels
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import Self

import torch
from PIL import Image
from torch import Tensor, nn

from mova_core.cards.card import ExpertCard, FeatureSpec
from mova_core.cards.stream import InputStream
from mova_core.errors import ExpertRunError
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.streams import stream_tensor


class VisionExpert(nn.Module, ABC):
    """Base class of every expert and base encoder (expert contract, api_version 1).

    The pool puts the expert in eval mode, turns its gradients off, and runs it under `no_grad` and without
    autocast.
    The expert keeps these promises:
    - each picture of a batch is treated alone, so that features can be cached by picture;
    - `preprocess` depends on nothing but the pictures and `stream`, so that equal streams are shared;
    - parameters and features have the dtype and device asked for.

    Attributes:
        card: the card the expert was loaded for; set by `bind`.
        stream: how it wants its pictures; the card's, or that of a tiny configuration.
    """

    card: ExpertCard
    stream: InputStream

    @classmethod
    @abstractmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """Build the expert with its weights.

        A class may take further keyword arguments, each with a default: the `options` of its card.

        Args:
            source: the file or folder of the weights; "" for an expert without weights.
            dtype: dtype of parameters and features.
            device: where the parameters go.

        Returns:
            The expert.

        Raises:
            ExpertLoadError: the weights cannot be read or do not fit.
        """

    @classmethod
    @abstractmethod
    def from_config(cls, **tiny: object) -> Self:
        """Build a small expert with random weights, its `stream` set, for tests.

        Args:
            tiny: sizes by name; each has a small default.
        """

    @abstractmethod
    def forward(self, stream: Tensor) -> ExpertFeatures:
        """Encode a prepared stream.

        Args:
            stream: what `preprocess` gave, as `placed` leaves it: on the expert's device; for "pixels"
                [b, 3, h, w] in its dtype, for "patches" in float32.

        Returns:
            Features of b pictures.
        """

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Prepare pictures as `stream` says; experts that read patches override this.

        Args:
            images: b RGB pictures.

        Returns:
            A float32 tensor on the CPU with one row a picture; [b, 3, h, w] for kind "pixels".
        """
        return stream_tensor(images, self.stream)

    def placed(self, stream: Tensor, *, device: torch.device, dtype: torch.dtype) -> Tensor:
        """A prepared stream as `forward` gets it: on a device, its pixels in the expert's dtype.

        Patches stay in float32: their rows and columns would not survive a short dtype.
        """
        return stream.to(device=device, dtype=dtype if self.stream.kind == "pixels" else None)

    @property
    def prepared_by(self) -> object:
        """What prepares its pictures: experts for whom it is equal, and their streams, share tensors."""
        return type(self).preprocess

    @property
    def nbytes(self) -> int:
        """Bytes of its parameters and buffers, shared ones counted once, wherever they are."""
        return sum(t.numel() * t.element_size() for t in chain(self.parameters(), self.buffers()))

    def bind(self, card: ExpertCard) -> Self:
        """Attach the card this expert was loaded for; from then on the card's stream is the expert's."""
        self.card = card
        self.stream = card.input
        return self


def check_features(features: object, spec: FeatureSpec, *, expert: str, images: int) -> ExpertFeatures:
    """Hold an expert's output against its card.

    Args:
        features: what `forward` returned.
        spec: channels and grid that the card promises.
        expert: id of the expert, for the error.
        images: number of pictures that went in.

    Returns:
        The features, unchanged.

    Raises:
        ExpertRunError: another type, number of pictures, width or grid than promised.
    """
    if not isinstance(features, ExpertFeatures):
        raise _broken_promise(expert, type(features).__name__, "ExpertFeatures")
    rows = features.tokens.shape[0]
    if rows != images:
        raise _broken_promise(expert, f"features of {rows} pictures", f"{images}")
    if features.channels != spec.channels:
        raise _broken_promise(expert, f"{features.channels} channels", f"{spec.channels}")
    if spec.grid != "dynamic" and features.grid != spec.grid:
        raise _broken_promise(expert, f"a grid of {_grid(features.grid)}", f"{_grid(spec.grid)}")
    return features


def _grid(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"


def _broken_promise(expert: str, got: str, expected: str) -> ExpertRunError:
    return ExpertRunError(
        f"expert {expert!r} does not keep its card's promise",
        value=got,
        expected=expected,
        hint=f"Compare its code with `mova experts describe {expert}`.",
    )
