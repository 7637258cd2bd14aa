"""The vision encoder of Pix2Struct behind the expert contract.

Source: Lee et al., "Pix2Struct: Screenshot Parsing as Pretraining for Visual Language Understanding"
(arXiv 2210.03347). The network is transformers'.

Notation for tensor shapes:
    b: pictures, n: patches of the square grid, row by row, d: values of a patch (`patches`), c: channels
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Pix2StructVisionModel

from mova_core.cards.card import ExpertCard
from mova_core.cards.stream import InputStream
from mova_core.errors import ExpertLoadError
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.layouts import Layout, pretrained
from mova_core.experts.protocol import VisionExpert
from mova_expert_pix2struct.layouts import layouts
from mova_expert_pix2struct.patches import PatchReader
from mova_expert_pix2struct.sizes import encoder, sizes_beside

RELEASED: Final[Mapping[str, int]] = {
    "hidden_size": 1536,
    "d_ff": 3968,
    "d_kv": 64,
    "num_attention_heads": 24,
    "num_hidden_layers": 18,
    "patch_embed_hidden_size": 768,
    "seq_len": 4096,
    "patches": 2025,
}
"""Pix2Struct-large, and the patches that MoVA gives it."""

TINY: Final[Mapping[str, int]] = {
    "hidden_size": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "patch_embed_hidden_size": 768,
    "seq_len": 64,
    "patches": 16,
}
"""For tests; with the patches of the released sizes, so that it reads their card's stream."""


class Pix2StructExpert(VisionExpert):
    """Reads a picture as a grid of patches, each with its row and column.

    Attention is not divided by the square root of the head's width, and places without a patch are masked.

    Args:
        encoder: the network.
        stream: how it wants its pictures, of kind "patches".

    Raises:
        ConfigError: the stream gives no square grid.
        ExpertLoadError: its patches are not those of the encoder.
    """

    released: ClassVar[Mapping[str, int]] = RELEASED
    layouts: ClassVar[tuple[Layout, ...]] = layouts(4)

    def __init__(self, encoder: Pix2StructVisionModel, stream: InputStream) -> None:
        super().__init__()
        self.encoder = encoder
        # Patches come in float32, for their rows and columns; pixels are read in the dtype of the weights.
        encoder.embeddings.patch_projection.register_forward_pre_hook(_in_its_dtype)
        self._check(stream)
        self.stream = stream

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """Build the encoder with its weights; see `layouts`.

        Args:
            source: a weight file or a folder; sizes are taken from a folder's `config.json`, and are the
                released ones without it.
            dtype: of parameters and features.
            device: where the parameters go.

        Raises:
            ExpertLoadError: the files cannot be read, or do not fit; what is missing or left over is listed.
        """
        sizes = {name: size for name, size in cls.released.items() if name != "patches"}
        sizes = sizes_beside(Path(source)) or sizes
        network = pretrained(lambda: encoder(**sizes), source, cls.layouts, dtype=dtype, device=device)
        return cls(network, patch_stream(cls.released["patches"], sizes["patch_embed_hidden_size"])).eval()

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        """Build an encoder with random weights.

        Args:
            tiny: sizes by name, as in `RELEASED`; those left out are small. `compat=True` gives the stream
                whose grid is rounded as the release rounds it.
        """
        compat = bool(tiny.pop("compat", False))
        sizes = {name: int(str(size)) for name, size in {**TINY, **tiny}.items()}
        patches = sizes.pop("patches")
        stream = patch_stream(patches, sizes["patch_embed_hidden_size"], compat=compat)
        return cls(encoder(**sizes), stream)

    def bind(self, card: ExpertCard) -> Self:
        """Attach a card.

        Raises:
            ConfigError: its stream gives no square grid.
            ExpertLoadError: its patches are not those of the encoder.
        """
        self._check(card.input)
        return super().bind(card)

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Cut b pictures into patches: [b, n, d] float32 on the CPU."""
        return PatchReader(self.stream)(images)

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """[b, n, d] -> features [b, n, c]."""
        # a mask of four dimensions is used as it is; of two, transformers would look into its values first
        there = (stream[:, :, 0] > 0)[:, None, None, :]  # [b, 1, 1, n]: row 0 marks a place without a patch
        tokens = self.encoder(flattened_patches=stream, attention_mask=there).last_hidden_state  # [b, n, c]
        side = math.isqrt(tokens.shape[1])
        return ExpertFeatures(tokens, (side, side))

    def _check(self, stream: InputStream) -> None:
        width = PatchReader(stream).width
        if width != self.encoder.config.patch_embed_hidden_size:
            raise ExpertLoadError(
                "the stream's patches are not those of the encoder",
                value=f"patch_size {stream.patch_size}, {width} values",
                expected=f"{self.encoder.config.patch_embed_hidden_size} values",
            )


def _in_its_dtype(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The input of a layer in the dtype of its weights."""
    return (given[0].to(next(layer.parameters()).dtype), *given[1:])


def patch_stream(patches: int, width: int, *, compat: bool = False) -> InputStream:
    """The stream of MoVA for this architecture: padded with the mean colour of CLIP, then resized.

    Args:
        patches: their number, a square.
        width: values of a patch, 3 * p * p.
        compat: round the grid as the release does, instead of making it exact; see `PatchReader`.
    """
    patch = math.isqrt(width // 3)
    side = math.isqrt(patches) * patch
    return InputStream(
        kind="patches",
        size=None if compat else (side, side),
        fit="pad",
        pad_colour=(122, 116, 104),
        interpolation="bilinear",
        patches=patches,
        patch_size=patch,
    )
