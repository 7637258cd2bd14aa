"""Which experts a batch chose, with their features brought to the base grid.

Notation for tensor shapes:
    b: samples, n: tokens of the base grid, k: experts chosen by at least one sample,
    m: samples that chose one expert, f: that expert's channels
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mova_core.errors import ExpertRunError, PoolError
from mova_core.experts.features import RoutedFeatures
from mova_core.fusion.grids import Grid, resize_tokens


@dataclass(frozen=True, slots=True)
class ChosenExpert:
    """One expert and the samples it works for.

    Args:
        id: the expert's id.
        features: [m, n, f] on the base grid.
        rows: [m], each sample's row in the batch; None if all samples chose the expert, so that nothing is
            copied.
    """

    id: str
    features: Tensor
    rows: Tensor | None

    def rows_of(self, x: Tensor) -> Tensor:
        """The expert's m rows of a [b, ...] tensor."""
        return x if self.rows is None else x.index_select(0, self.rows)

    def add_to(self, x: Tensor, y: Tensor) -> Tensor:
        """x [b, ...] with y [m, ...] added in place to the expert's rows."""
        return x.add_(y) if self.rows is None else x.index_add_(0, self.rows, y)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The chosen experts in the order of their ids.

    Args:
        experts: k experts.
        mask: [b, k], true where the sample chose the expert.
    """

    experts: tuple[ChosenExpert, ...]
    mask: Tensor


def gather_chosen(
    features: Mapping[str, RoutedFeatures],
    channels: Mapping[str, int],
    *,
    batch: int,
    grid: Grid,
    like: Tensor,
) -> Chosen:
    """Order the given features by expert id and bring them to the base grid.

    Args:
        features: by expert id; an expert whose features are for no sample counts as not chosen.
        channels: for each expert that has a pack, the feature channels it reads.
        batch: samples b.
        grid: the base grid.
        like: a tensor of the dtype and on the device wanted.

    Returns:
        The chosen experts.

    Raises:
        PoolError: if an expert has no pack.
        ExpertRunError: if an expert's features have other channels than its pack reads.
        ValueError: if a row lies outside the batch.
    """
    experts: list[ChosenExpert] = []
    mask = torch.zeros(len(features), batch, dtype=torch.bool)  # [k, b]
    for id in sorted(features):
        _check(id, features[id], channels, batch)
        rows = features[id].rows
        if not rows:
            continue
        mask[len(experts), list(rows)] = True
        tokens = resize_tokens(features[id].features.tokens, features[id].features.grid, grid)  # [m, n, f]
        index = None if len(rows) == batch else torch.tensor(rows, device=like.device)
        experts.append(ChosenExpert(id, tokens.to(like), index))
    return Chosen(tuple(experts), mask[: len(experts)].T.to(like.device))


def _check(id: str, routed: RoutedFeatures, channels: Mapping[str, int], batch: int) -> None:
    if id not in channels:
        raise PoolError(
            "features were given of an expert that this model has no pack for",
            value=id,
            expected=f"one of {', '.join(sorted(channels)) or 'no expert at all'}",
            hint="`mova experts list` shows the experts that can be used.",
        )
    if routed.features.channels != channels[id]:
        raise ExpertRunError(
            f"the features of {id} do not fit its pack",
            value=f"{routed.features.channels} channels",
            expected=f"{channels[id]}",
            hint=f"`mova experts describe {id}` shows what the installed expert gives.",
        )
    if routed.rows and (routed.rows[0] < 0 or routed.rows[-1] >= batch):
        raise ValueError(f"features of {id} name rows {routed.rows} of a batch of {batch}")
