"""Any timm model behind the expert contract; the card says which.

Notation for tensor shapes:
    b: pictures, h, w: pixels, n: tokens of the feature grid, c: feature channels
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from mova_core.cards.card import ExpertCard
from mova_core.cards.stream import InputStream
from mova_core.errors import ExpertLoadError, ExpertRunError
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert
from mova_expert_timm.grids import from_map, from_tokens
from mova_expert_timm.networks import headless, loaded, named, resize, settings
from mova_expert_timm.streams import timm_stream


class TimmExpert(VisionExpert):
    """What timm's `forward_features` gives, as tokens on a grid.

    Sequences lose their class and register tokens; maps are read row by row, with channels first or last.

    Args:
        network: a timm model without its head.
        stream: how it wants its pictures.
    """

    encoder: Any  # timm's models share their methods by convention, not by a type

    def __init__(self, network: nn.Module, stream: InputStream) -> None:
        super().__init__()
        self.encoder = network
        self.stream = stream

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """Build the model that a folder describes, with its weights.

        Args:
            source: a folder with timm's `config.json` and the weights, such as a snapshot of `timm/NAME`.
            dtype: of parameters and features.
            device: where the parameters go.

        Raises:
            ExpertLoadError: timm cannot build it, or the weights do not fit; what is missing or left over is
                listed.
        """
        network = loaded(Path(source), dtype=dtype, device=device)
        return cls(network, timm_stream(settings(network))).eval()

    @classmethod
    def from_config(cls, **tiny: Any) -> Self:
        """Build a model with random weights.

        Args:
            tiny: `architecture`, a name of timm's; `size`, (h, w) in pixels, where it is not the model's own;
                all others are arguments of timm's `create_model`.
        """
        size = tiny.pop("size", None)
        return cls.around(named(tiny.pop("architecture", "test_vit"), **tiny), size)

    @classmethod
    def around(cls, network: nn.Module, size: tuple[int, int] | None = None) -> Self:
        """The expert of a whole timm model, whose head is dropped.

        Args:
            network: as timm builds it.
            size: (h, w) in pixels; None is the model's own.
        """
        stream = timm_stream(settings(network), size=size)
        expert = cls(headless(network), stream)
        if size is not None:
            resize(network, size)
        return expert

    def bind(self, card: ExpertCard) -> Self:
        """Attach a card; where its pictures have another size, position tables are interpolated.

        Raises:
            ExpertLoadError: the card's stream is of patches, or of a size that the model cannot read.
        """
        if card.input.size is None or card.input.kind != "pixels":
            raise ExpertLoadError(
                "timm's models read pixels", value=f"kind {card.input.kind!r}", expected="kind 'pixels'"
            )
        if card.input.size != self.stream.size:
            resize(self.encoder, card.input.size)
        return super().bind(card)

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """[b, 3, h, w] -> features [b, n, c].

        Raises:
            ExpertRunError: the model gives neither a map nor a sequence that fills a grid.
        """
        output = self.encoder.forward_features(stream)
        if not isinstance(output, Tensor) or output.dim() not in (3, 4):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ExpertRunError(
                "this timm model gives no single map",
                value=f"{settings(self.encoder)['architecture']}: {shape}",
                expected="[b, n, c], [b, c, h, w] or [b, h, w, c]",
            )
        if output.dim() == 4:
            return from_map(output, channels_last=getattr(self.encoder, "output_fmt", "NCHW") == "NHWC")
        stride = self.encoder.feature_info[-1]["reduction"]
        grid = (stream.shape[2] // stride, stream.shape[3] // stride)
        prefix: int | None = getattr(self.encoder, "num_prefix_tokens", None)
        return from_tokens(output, grid, prefix=prefix)
