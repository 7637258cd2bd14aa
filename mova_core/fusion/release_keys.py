"""Names of the MoV-Adapter's weights in released checkpoints, and ours.

In a release experts are positions: list indices and rows of one gate matrix. Here each has a pack of its own,
so the order of the ids is all that is needed to go either way; no number changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from mova_core.errors import CheckpointError
from mova_core.fusion.rotary import release_tables

State = dict[str, Tensor]

_ATTENTION = {
    "q_proj": "q_proj",
    "k_proj": "k_proj",
    "v_proj": "v_proj",
    "inner_attn_ln": "norm",
    "proj": "proj",
}
_BLOCK = {
    "gate.0": "gate.linear",
    "norm3": "attention_norm",
    **{f"self_attn.{theirs}": f"attention.{ours}" for theirs, ours in _ATTENTION.items()},
    "norm4": "ffn_norm",
    "mlp.w1": "ffn.gate",
    "mlp.w2": "ffn.up",
    "mlp.ffn_ln": "ffn.norm",
    "mlp.w3": "ffn.down",
}
_EXPERT = {
    "norm1.{j}": "extractor.query_norm",
    "norm2.{j}": "extractor.feature_norm",
    **{f"cross_attn.{{j}}.{theirs}": f"extractor.attention.{ours}" for theirs, ours in _ATTENTION.items()},
}
_REGNET = {
    "conv1.conv": "conv1",
    "conv1.bn": "norm1",
    "conv2.conv": "conv2",
    "conv2.bn": "norm2",
    "se.fc1": "se.fc1",
    "se.fc2": "se.fc2",
    "conv3.conv": "conv3",
    "conv3.bn": "norm3",
}
_TAIL = {
    **{f"downsample.0.b1.{theirs}": f"downsample.before.{ours}" for theirs, ours in _REGNET.items()},
    **{f"downsample.2.b1.{theirs}": f"downsample.after.{ours}" for theirs, ours in _REGNET.items()},
    "mlp.0": "projector.0",
    "mlp.2": "projector.2",
}
TEXT = "text_encoder."
"""Prefix of the text encoder's weights within a released adapter."""
_ROTARY = re.compile(r"blocks\.\d+\.(self_attn|cross_attn\.\d+)\.rope\.freqs_(cos|sin)")
_GATE = re.compile(r"blocks\.(\d+)\.gate\.2\.(weight|bias)")
_ROW = re.compile(r"layers\.(\d+)\.gate\.(weight|bias)")
HEAD_DIM = 64
"""Dimensions of an attention head in every released adapter."""
_TABLE_TOLERANCE = 2.0**-8
"""Stored tables may have been rounded to bfloat16."""


class Owned(NamedTuple):
    """Where a tensor of a released adapter, or one row of it, belongs.

    Args:
        owner: the expert whose pack it goes to; None for the core.
        name: its name there.
        row: the one row of the released tensor that is meant; None for all of it.
    """

    owner: str | None
    name: str
    row: int | None = None


class ReleaseNames:
    """The owners of a released adapter's weights, by the release's names.

    Args:
        depth: blocks of the adapter.
        expert_ids: our ids of its experts, in the release's order.
    """

    def __init__(self, depth: int, expert_ids: Sequence[str]) -> None:
        self._depth, self._ids = depth, tuple(expert_ids)
        names = tuple(_names(depth, expert_ids))
        self._stems = {theirs: (owner, ours) for theirs, owner, ours in names}
        self._ours = {(owner, ours): theirs for theirs, owner, ours in names}

    def owners(self, key: str) -> tuple[Owned, ...]:
        """Whose the weight of that name is: one owner, or for a gate matrix every expert with its row.

        Nothing for a name that is no weight of the adapter, such as a rotary table's.
        """
        if key == "pos_embed":
            return (Owned(None, "position"),)
        if (gate := _GATE.fullmatch(key)) and int(gate[1]) < self._depth:
            name = f"layers.{gate[1]}.gate.{gate[2]}"
            return tuple(Owned(id, name, row) for row, id in enumerate(self._ids))
        stem, _, leaf = key.rpartition(".")
        if stem not in self._stems:
            return ()
        owner, ours = self._stems[stem]
        return (Owned(owner, f"{ours}.{leaf}"),)

    def released(self, owner: str | None, name: str) -> str:
        """The release's name of a weight of the core (None) or of an expert's pack.

        Raises:
            CheckpointError: the release has none for it.
        """
        if owner is None and name == "position":
            return "pos_embed"
        if owner is not None and (row := _ROW.fullmatch(name)):
            return f"blocks.{row[1]}.gate.2.{row[2]}"
        stem, _, leaf = name.rpartition(".")
        if (owner, stem) not in self._ours:
            raise CheckpointError(
                "a released adapter has no name for this weight", value=f"{owner or 'core'}: {name}"
            )
        return f"{self._ours[owner, stem]}.{leaf}"


def is_rotary(key: str) -> bool:
    """Whether that is the name of a rotary table in a released adapter."""
    return _ROTARY.fullmatch(key) is not None


class AdapterParts(NamedTuple):
    """A released adapter, taken apart by owner.

    Args:
        core: as `MovAdapter.load_core` takes it.
        packs: by expert id, in the release's order, the state dict of its `ExpertPack`.
        text: the state dict of `TextEncoder`.
        rotary: rotary tables under the release's names, as they were found: they are never loaded, only put
            back.
    """

    core: State
    packs: dict[str, State]
    text: State
    rotary: State


def from_release(state: Mapping[str, Tensor], expert_ids: Sequence[str]) -> AdapterParts:
    """Take a released adapter apart.

    Args:
        state: weights under the release's names, relative to the adapter.
        expert_ids: our ids of its experts, in the release's order.

    Returns:
        The same weights under our names.

    Raises:
        CheckpointError: for a name that is not known, a gate with another number of experts, or rotary tables
            that are not those of the method.
    """
    names = ReleaseNames(adapter_depth(state), expert_ids)
    parts = AdapterParts({}, {id: {} for id in expert_ids}, {}, {})
    for key, tensor in state.items():
        if is_rotary(key):
            head_dim = tensor.shape[-1] if tensor.dim() == 2 and tensor.shape[-1] % 4 == 0 else HEAD_DIM
            parts.rotary[key] = checked_table(key, tensor, _grid(state), head_dim)
        elif key.startswith(TEXT):
            parts.text[key.removeprefix(TEXT)] = tensor
        else:
            _hand_out(parts, names.owners(key), key, tensor)
    return parts


def _grid(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Grid of an adapter, by its position embedding."""
    if "pos_embed" not in state:
        raise CheckpointError("a released adapter lacks its position embedding", value="pos_embed")
    side = isqrt(state["pos_embed"].shape[1])
    return side, side


def _hand_out(parts: AdapterParts, owners: Sequence[Owned], key: str, tensor: Tensor) -> None:
    if not owners:
        raise CheckpointError(
            f"not a weight of a released adapter with {len(parts.packs)} experts", value=key
        )
    if owners[0].row is not None and len(tensor) != len(owners):
        raise CheckpointError(
            "the gate is for another number of experts",
            value=f"{len(tensor)} rows",
            expected=f"{len(owners)}",
        )
    for owner, name, row in owners:
        # A copy of a row: safetensors refuses weights that share memory.
        own = tensor if row is None else tensor[row : row + 1].clone()
        (parts.core if owner is None else parts.packs[owner])[name] = own


def to_release(parts: AdapterParts) -> State:
    """Put a released adapter together again, bit for bit what `from_release` was given.

    Args:
        parts: weights under our names; the order of the packs is the order of the experts.

    Returns:
        The same weights under the release's names.

    Raises:
        CheckpointError: for a weight that the release has no name for, or a pack without a gate row.
    """
    ids = tuple(parts.packs)
    depth = 1 + max((int(key.split(".")[1]) for key in parts.core if key.startswith("blocks.")), default=-1)
    names = ReleaseNames(depth, ids)
    state: State = {}
    gates: dict[str, list[Tensor]] = {}
    owned: list[tuple[str | None, str, Tensor]] = [(None, key, tensor) for key, tensor in parts.core.items()]
    owned += [(id, key, tensor) for id in ids for key, tensor in parts.packs[id].items()]
    for owner, key, tensor in owned:
        theirs = names.released(owner, key)
        if _GATE.fullmatch(theirs):
            gates.setdefault(theirs, []).append(tensor)
        else:
            state[theirs] = tensor
    state |= {name: _joined_gate(name, rows, len(ids)) for name, rows in gates.items()}
    return state | {f"{TEXT}{key}": tensor for key, tensor in parts.text.items()} | parts.rotary


def _names(depth: int, expert_ids: Sequence[str]) -> Iterator[tuple[str, str | None, str]]:
    """Every module with weights: its name in the release, its owner (None: the core), its name here."""
    for theirs, ours in _TAIL.items():
        yield theirs, None, ours
    for i in range(depth):
        for theirs, ours in _BLOCK.items():
            yield f"blocks.{i}.{theirs}", None, f"blocks.{i}.{ours}"
        for j, id in enumerate(expert_ids):
            for theirs, ours in _EXPERT.items():
                yield f"blocks.{i}.{theirs.format(j=j)}", id, f"layers.{i}.{ours}"


def adapter_depth(keys: Iterable[str]) -> int:
    """Blocks of a released adapter, by the names of its weights: as many as have a gate."""
    return len({gate[1] for key in keys if (gate := _GATE.fullmatch(key))})


def _joined_gate(name: str, rows: list[Tensor], experts: int) -> Tensor:
    if len(rows) != experts:
        raise CheckpointError(
            f"not every pack has its row of {name}", value=f"{len(rows)} rows", expected=f"{experts}"
        )
    return torch.cat(rows)


def checked_table(key: str, table: Tensor, grid: tuple[int, int], head_dim: int) -> Tensor:
    """A rotary table found in a release, unchanged.

    Args:
        key: its name.
        table: [n, d] as stored, possibly rounded to bfloat16.
        grid: the adapter's grid.
        head_dim: dimensions d of its heads.

    Raises:
        CheckpointError: it is not the one that the method computes for that grid.
    """
    cos, sin = release_tables(grid, head_dim)
    own = cos if key.endswith("cos") else sin
    # Not "any beyond": what is no number lies beyond nothing.
    if own.shape != table.shape or not (own - table.float().cpu()).abs().max() <= _TABLE_TOLERANCE:
        raise CheckpointError(
            "a rotary table is not that of the method",
            value=f"{key} {list(table.shape)}",
            expected=f"{list(own.shape)}: interleaved pairs, rows first, base 10000",
        )
    return table
