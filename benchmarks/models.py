"""The adapter, its text encoder and experts' features at a size, with random weights that are all at work.

Notation for tensor shapes:
    b: samples, n: tokens of a grid, c: channels, s: text tokens
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.reference import PlainAdapter
from benchmarks.sizes import Sizes
from mova_core.experts.features import ExpertFeatures, RoutedFeatures
from mova_core.fusion.adapter import MovAdapter
from mova_core.fusion.packs import ExpertPack
from mova_core.fusion.text import TextEncoder


def build_adapter(sizes: Sizes) -> MovAdapter:
    """An adapter with a pack for each expert; what starts at zero is given weights, too."""
    adapter = MovAdapter(
        width=sizes.width,
        heads=sizes.heads,
        grid=sizes.grid,
        text_dim=sizes.width,
        out_dim=sizes.out,
        depth=sizes.depth,
    )
    for id, (channels, _) in sizes.experts.items():
        pack = ExpertPack(width=sizes.width, channels=channels, heads=sizes.heads, depth=sizes.depth)
        adapter.add_pack(id, pack)
    for parameter in adapter.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02)
    return adapter.eval()


def build_text_encoder(sizes: Sizes, attention: str = "sdpa") -> TextEncoder:
    """A BERT of the given size: with 24 layers and width 1024, BERT-large."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width,
    )
    config._attn_implementation = attention
    return TextEncoder(BertModel(config, add_pooling_layer=False)).eval()


def question(sizes: Sizes, samples: int = 1) -> dict[str, Tensor]:
    """Tokens of questions, [b, s] each."""
    ids = torch.randint(1, 1000, (samples, sizes.question))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def base_tokens(sizes: Sizes, samples: int) -> Tensor:
    """What the base encoder saw, [b, n, c]."""
    return torch.randn(samples, sizes.grid[0] * sizes.grid[1], sizes.width)


def features(sizes: Sizes, ids: Iterable[str]) -> dict[str, RoutedFeatures]:
    """Features of experts that one sample chose."""
    found = {}
    for id in ids:
        channels, (h, w) = sizes.experts[id]
        found[id] = RoutedFeatures(ExpertFeatures(torch.randn(1, h * w, channels), (h, w)), (0,))
    return found


def positioned(sizes: Sizes, given: dict[str, RoutedFeatures]) -> list[tuple[Tensor, tuple[int, int]] | None]:
    """The same as the reference wants them: by position."""
    return [
        (given[id].features.tokens, given[id].features.grid) if id in given else None for id in sizes.experts
    ]


def mask(sizes: Sizes, routes: Sequence[Sequence[str]]) -> Tensor:
    """[b, e], one where a sample chose an expert."""
    return torch.tensor([[float(id in route) for id in sizes.experts] for route in routes])


class Arithmetic:
    """Counts the operations of matrix products and convolutions, on tensors without contents.

    Args:
        sizes: of what is counted.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    def adapter(self, route: Sequence[str]) -> int:
        """Of the adapter, for one sample and the experts of its route."""
        with torch.device("meta"):
            plain = PlainAdapter(build_adapter(self.sizes), tuple(self.sizes.experts))
            given = positioned(self.sizes, features(self.sizes, route))
            inputs = base_tokens(self.sizes, 1), given, mask(self.sizes, [route])
            text = torch.empty(1, self.sizes.width)
            return self._count(lambda: plain(*inputs, text))

    def text_encoder(self) -> int:
        """Of the text encoder, for one question."""
        with torch.device("meta"):
            bert = build_text_encoder(self.sizes, "eager").bert
            ids = question(self.sizes)["input_ids"]
            return self._count(lambda: bert(input_ids=ids))  # a mask would be asked for its contents

    def _count(self, run: Callable[[], object]) -> int:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            run()
        return counter.get_total_flops()
