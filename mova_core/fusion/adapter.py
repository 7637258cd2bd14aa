"""The MoV-Adapter: fuse the features of the chosen experts into the base tokens (paper, section 3.3).

Notation for tensor shapes:
    b: samples, n: tokens of the base grid (h * w), c: width, t: text width, l: blocks,
    m: fused tokens, d: width of the language model, k: experts chosen by at least one sample
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mova_core.errors import ConfigError, PoolError
from mova_core.experts.features import RoutedFeatures
from mova_core.fusion.block import MovBlock
from mova_core.fusion.chosen import Chosen, gather_chosen
from mova_core.fusion.downsample import Downsample
from mova_core.fusion.grids import Grid, half
from mova_core.fusion.output import FusionOutput
from mova_core.fusion.packs import ExpertPack, PackLayer
from mova_core.fusion.rotary import Rotary, rotary_tables
from mova_core.fusion.states import load_exactly

PACKS = "packs."
"""Prefix of all weights in the adapter's state dict that belong to packs, followed by the expert's id."""


class MovAdapter(nn.Module):
    """Base tokens, expert features and a text feature in; tokens for the language model out.

    The adapter is a core of fixed shape and any number of packs, one for each expert, under the expert's id.
    Which packs are there, and in which order they came, has no bearing on a sample that did not choose them.

    Args:
        width: width c of the base tokens.
        heads: attention heads; c / heads is a multiple of 4 (64 in the paper).
        grid: grid of the base tokens.
        text_dim: width t of the text feature.
        out_dim: width d of the language model.
        depth: blocks l.
        ffn_ratio: hidden width of the feed-forward layers as a multiple of c.
        max_experts: experts that may count for one sample; of more, each block keeps those its gate weighs
            most.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        grid: Grid,
        text_dim: int,
        out_dim: int,
        depth: int = 3,
        ffn_ratio: float = 8 / 3,
        max_experts: int = 3,
    ) -> None:
        super().__init__()
        if min(width, heads, *grid, text_dim, out_dim, depth, max_experts) < 1:
            raise ConfigError(
                "the adapter's sizes must be positive",
                value=f"width {width}, heads {heads}, grid {grid}, text_dim {text_dim}, out_dim {out_dim}, "
                f"depth {depth}, max_experts {max_experts}",
                expected="1 or more each",
            )
        self.width, self.heads, self.grid, self.depth = width, heads, grid, depth
        self.text_dim, self.out_dim = text_dim, out_dim
        self.position = nn.Parameter(torch.empty(1, grid[0] * grid[1], width))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.ModuleList(
            MovBlock(
                width=width, heads=heads, text_dim=text_dim, ffn_ratio=ffn_ratio, max_experts=max_experts
            )
            for _ in range(depth)
        )
        self.downsample = Downsample(width)
        self.projector = nn.Sequential(nn.Linear(width, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))
        self.packs = nn.ModuleDict()

    @property
    def out_grid(self) -> Grid:
        """Grid of the fused tokens."""
        return half(self.grid)

    @property
    def pack_ids(self) -> tuple[str, ...]:
        """Ids of the experts that have a pack, sorted."""
        return tuple(sorted(self.packs))

    def pack(self, id: str) -> ExpertPack:
        """The pack of an expert.

        Raises:
            PoolError: if it has none.
        """
        if id not in self.packs:
            raise PoolError(
                "no pack for this expert", value=id, expected=", ".join(self.pack_ids) or "no id at all"
            )
        return cast(ExpertPack, self.packs[id])

    def add_pack(self, id: str, pack: ExpertPack) -> None:
        """Give an expert its pack; the pack moves to the adapter's device and dtype.

        Raises:
            PoolError: if the id is taken or cannot name a pack, or the pack was made for another adapter.
        """
        if id in self.packs:
            raise PoolError("this expert already has a pack", value=id, hint="Remove that one first.")
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", id) or hasattr(self.packs, id):
            raise PoolError(
                "this id cannot name a pack",
                value=id,
                expected="[a-z0-9][a-z0-9-]*, no method of a torch module",
            )
        for name in ("width", "heads", "depth"):
            if getattr(pack, name) != getattr(self, name):
                raise PoolError(
                    f"the pack of {id} was made for another adapter",
                    value=f"{name} {getattr(pack, name)}",
                    expected=f"{name} {getattr(self, name)}",
                )
        self.packs[id] = pack.to(self.position.device, self.position.dtype)

    def remove_pack(self, id: str) -> ExpertPack:
        """Take an expert's pack out and return it.

        Raises:
            PoolError: if it has none.
        """
        pack = self.pack(id)
        del self.packs[id]
        return pack

    def core_state(self) -> dict[str, Tensor]:
        """The state dict without the packs: the same names and shapes whatever the pool."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(PACKS)}

    def load_core(self, state: Mapping[str, Tensor]) -> None:
        """Copy in what `core_state` gave.

        Raises:
            CheckpointError: naming what is missing, superfluous or of another shape.
        """
        load_exactly(self, state, what="the adapter's core", ignore=PACKS)

    def forward(
        self, base: Tensor, features: Mapping[str, RoutedFeatures], text: Tensor, *, explain: bool = False
    ) -> FusionOutput:
        """Fuse.

        Args:
            base: [b, n, c], row-major over the base grid.
            features: by expert id, features for just the samples that chose the expert. What is given is what
                was chosen; the order of the mapping does not matter.
            text: [b, t].
            explain: also compute attention maps, at some cost in time.

        Returns:
            The fused tokens with gate weights and, if asked for, attention maps.

        Raises:
            PoolError: if an expert has no pack.
            ExpertRunError: if an expert's features do not fit its pack.
            ValueError: if base or text have other shapes than the adapter was built for.
        """
        self._check(base, text)
        base, text = base.to(self.position), text.to(self.position)
        channels = {id: self.pack(id).channels for id in self.packs}
        chosen = gather_chosen(features, channels, batch=len(base), grid=self.grid, like=base)
        rotary = rotary_tables(self.grid, self.width // self.heads, base.device)
        weights: list[Tensor] = []  # [b, k] of each block
        maps: list[Tensor] = []  # [b, k, h, w] of each block
        x = base + self.position  # [b, n, c]
        for number, block in enumerate(self.blocks):
            layers = [self.pack(expert.id).layer(number) for expert in chosen.experts]
            if explain and layers:
                maps.append(self._attention_maps(x, chosen, layers, rotary))
            x, weight = cast(MovBlock, block)(x, text, chosen, layers, rotary)
            weights.append(weight)
        x = self.downsample((x + base) / 2, self.grid)  # [b, m, c]
        gates, attention = _by_expert(chosen, weights), _by_expert(chosen, maps)
        return FusionOutput(self.projector(x), self.out_grid, gates, attention)

    @torch.no_grad()
    def _attention_maps(self, x: Tensor, chosen: Chosen, layers: list[PackLayer], rotary: Rotary) -> Tensor:
        maps: list[Tensor] = []
        for expert, layer in zip(chosen.experts, layers, strict=True):
            found = layer.extractor.attention_map(expert.rows_of(x), expert.features, rotary)  # [m, n]
            maps.append(expert.add_to(found.new_zeros(x.shape[:2]), found))  # [b, n]
        return torch.unflatten(torch.stack(maps, dim=1), 2, self.grid)  # [b, k, h, w]

    def _check(self, base: Tensor, text: Tensor) -> None:
        wanted = (len(base), self.grid[0] * self.grid[1], self.width)
        if base.shape != wanted:
            raise ValueError(f"base tokens of shape {list(base.shape)}; this adapter takes {list(wanted)}")
        if text.shape != (len(base), self.text_dim):
            raise ValueError(
                f"text feature of shape {list(text.shape)}; this adapter takes [{len(base)}, {self.text_dim}]"
            )


def _by_expert(chosen: Chosen, blocks: list[Tensor]) -> dict[str, Tensor]:
    """From [b, k, ...] of each block to [l, b, ...] of each expert."""
    if not blocks:
        return {}
    parts = torch.stack(blocks).unbind(dim=2)  # k of [l, b, ...]
    return {expert.id: part for expert, part in zip(chosen.experts, parts, strict=True)}
