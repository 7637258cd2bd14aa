"""Names of the MoV-Adapter's weights in released checkpoints, and ours.

In a release experts are positions: list indices and rows of one gate matrix. Here each has a pack of its own,
so the order of the ids is all that is needed to go either way; no number changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
_TEXT = "text_encoder."
_ROTARY = re.compile(r"blocks\.\d+\.(self_attn|cross_attn\.\d+)\.rope\.freqs_(cos|sin)")
_GATE = re.compile(r"blocks\.(\d+)\.gate\.2\.(weight|bias)")
_ROW = re.compile(r"layers\.(\d+)\.gate\.(weight|bias)")
_TABLE_TOLERANCE = 2.0**-8
"""Stored tables may have been rounded to bfloat16."""


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
    names = {theirs: (owner, ours) for theirs, owner, ours in _names(_depth(state), expert_ids)}
    parts = AdapterParts({}, {id: {} for id in expert_ids}, {}, {})
    for key, tensor in state.items():
        stem, _, leaf = key.rpartition(".")
        if gate := _GATE.fullmatch(key):
            _split_gate(parts.packs, tensor, f"layers.{gate[1]}.gate.{gate[2]}")
        elif _ROTARY.fullmatch(key):
            parts.rotary[key] = _checked_table(key, tensor)
        elif key.startswith(_TEXT):
            parts.text[key.removeprefix(_TEXT)] = tensor
        elif key == "pos_embed":
            parts.core["position"] = tensor
        elif stem in names:
            owner, ours = names[stem]
            (parts.core if owner is None else parts.packs[owner])[f"{ours}.{leaf}"] = tensor
        else:
            raise CheckpointError(
                f"not a weight of a released adapter with {len(expert_ids)} experts", value=key
            )
    return parts


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
    names = {(owner, ours): theirs for theirs, owner, ours in _names(depth, ids)}
    state: State = {}
    gates: dict[str, list[Tensor]] = {}
    owned: list[tuple[str | None, str, Tensor]] = [(None, key, tensor) for key, tensor in parts.core.items()]
    owned += [(id, key, tensor) for id in ids for key, tensor in parts.packs[id].items()]
    for owner, key, tensor in owned:
        stem, _, leaf = key.rpartition(".")
        if key == "position":
            state["pos_embed"] = tensor
        elif (owner, stem) in names:
            state[f"{names[owner, stem]}.{leaf}"] = tensor
        elif owner is not None and (row := _ROW.fullmatch(key)):
            gates.setdefault(f"blocks.{row[1]}.gate.2.{row[2]}", []).append(tensor)
        else:
            raise CheckpointError(
                "a released adapter has no name for this weight", value=f"{owner or 'core'}: {key}"
            )
    state |= {name: _joined_gate(name, rows, len(ids)) for name, rows in gates.items()}
    return state | {f"{_TEXT}{key}": tensor for key, tensor in parts.text.items()} | parts.rotary


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


def _depth(state: Mapping[str, Tensor]) -> int:
    return 1 + max((int(gate[1]) for key in state if (gate := _GATE.fullmatch(key))), default=-1)


def _split_gate(packs: Mapping[str, State], gate: Tensor, name: str) -> None:
    if len(gate) != len(packs):
        raise CheckpointError(
            "the gate is for another number of experts", value=f"{len(gate)} rows", expected=f"{len(packs)}"
        )
    for j, pack in enumerate(packs.values()):
        pack[name] = gate[j : j + 1].clone()  # a copy: safetensors refuses weights that share memory


def _joined_gate(name: str, rows: list[Tensor], experts: int) -> Tensor:
    if len(rows) != experts:
        raise CheckpointError(
            f"not every pack has its row of {name}", value=f"{len(rows)} rows", expected=f"{experts}"
        )
    return torch.cat(rows)


def _checked_table(key: str, table: Tensor) -> Tensor:
    side = isqrt(len(table))
    cos, sin = release_tables((side, side), table.shape[-1])
    own = cos if key.endswith("cos") else sin
    if own.shape != table.shape or (own - table.float().cpu()).abs().max() > _TABLE_TOLERANCE:
        raise CheckpointError(
            "a rotary table is not that of the method",
            value=f"{key} {list(table.shape)}",
            expected="interleaved pairs, rows first, base 10000, on a square grid",
        )
    return table
