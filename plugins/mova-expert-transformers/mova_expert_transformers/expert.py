"""Any vision backbone or vision tower of transformers behind the expert contract; the card says which.

Notation for tensor shapes:
    b: pictures, h, w: pixels, n: tokens of the feature grid, c: feature channels
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from mova_core.cards.card import ExpertCard
from mova_core.cards.stream import InputStream
from mova_core.errors import ExpertLoadError
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert
from mova_expert_timm.streams import pixel_stream
from mova_expert_transformers.networks import built, configuration, vision_part
from mova_expert_transformers.reading import hidden_state, on_grid, patches
from mova_expert_transformers.streams import native_size, processor_settings, processor_stream
from mova_expert_transformers.weights import loaded

TINY: Final[dict[str, Any]] = {
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
}


class TransformersExpert(VisionExpert):
    """The last hidden state of a vision network as tokens on a grid; of a backbone, its last feature map.

    Class and register tokens are left out. Networks of one size are asked to interpolate their positions.

    Args:
        network: of transformers.
        stream: how it wants its pictures; None leaves it to the card.
    """

    layer: ClassVar[int] = -1
    """Which hidden state is the feature, counted from the end."""

    def __init__(self, network: PreTrainedModel, stream: InputStream | None = None) -> None:
        super().__init__()
        self.encoder = network
        if stream is not None:
            self.stream = stream
        self._takes = frozenset(inspect.signature(network.forward).parameters)

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """Build the vision network that a folder describes, with its weights.

        Args:
            source: a folder with `config.json` and the weights, such as a snapshot of the hub.
            dtype: of parameters and features.
            device: where the parameters go.

        Raises:
            ExpertLoadError: transformers cannot build it, or the weights do not fit; what is missing or left
                over is listed.
        """
        folder = Path(source)
        network = loaded(folder, dtype=dtype)
        settings = processor_settings(folder)
        stream = processor_stream(settings, configuration(folder)) if settings else None
        return cls(network, stream).to(device=device, dtype=dtype).eval()

    @classmethod
    def from_config(cls, **tiny: Any) -> Self:
        """Build a network with random weights.

        Args:
            tiny: `model_type`, a name of transformers'; all others are entries of its configuration. Without
                a model type, a small network is taken, whose entries can be changed.
        """
        entries = tiny if "model_type" in tiny else {**TINY, **tiny}
        config = vision_part(AutoConfig.for_model(**entries))
        half = (0.5, 0.5, 0.5)
        return cls(built(config), pixel_stream(native_size(config), half, half, interpolation="bicubic"))

    def bind(self, card: ExpertCard) -> Self:
        """Attach a card.

        Raises:
            ExpertLoadError: the card's stream is of patches.
        """
        if card.input.kind != "pixels":
            raise ExpertLoadError(
                "this expert reads pixels", value=f"kind {card.input.kind!r}", expected="kind 'pixels'"
            )
        return super().bind(card)

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """[b, 3, h, w] -> features [b, n, c].

        Raises:
            ExpertRunError: the network gives neither a map nor a sequence that fills a grid.
        """
        output = self.encoder(**self._inputs(stream))
        state = hidden_state(output, self.layer)
        return on_grid(state, self.encoder.config, (stream.shape[2], stream.shape[3]))

    def _inputs(self, stream: Tensor) -> dict[str, Any]:
        """What the network is called with."""
        if "spatial_shapes" in self._takes:  # pictures of any proportions, as patches (SigLIP 2)
            inputs = patches(stream, self.encoder.config.patch_size)
        else:
            inputs = {"pixel_values": stream}
        if self.layer != -1:
            inputs["output_hidden_states"] = True
        if "interpolate_pos_encoding" in self._takes:
            inputs["interpolate_pos_encoding"] = tuple(stream.shape[2:]) != native_size(self.encoder.config)
        return inputs


class PenultimateExpert(TransformersExpert):
    """The state before the last layer, which says less of the task that a network was trained for."""

    layer = -2
