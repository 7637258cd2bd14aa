"""Released names to ours and back, on adapters of our own."""

from __future__ import annotations

import pytest
import torch

from mova_core.errors import CheckpointError
from mova_core.fusion.release_keys import AdapterParts, from_release, to_release
from mova_core.fusion.rotary import release_tables

IDS = ("gamma", "alpha")


@pytest.fixture
def released(lab):
    adapter = lab.adapter(IDS)
    packs = {id: adapter.pack(id).state_dict() for id in IDS}
    return to_release(AdapterParts(adapter.core_state(), packs, {"bert.x.weight": torch.ones(2)}, {}))


def test_positions_become_names_and_names_positions(lab, released):
    assert released["blocks.1.gate.2.weight"].shape == (2, 16)
    parts = from_release(released, IDS)
    assert tuple(parts.packs) == IDS
    for id in IDS:
        state = lab.pack(id).state_dict()
        assert parts.packs[id].keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in parts.packs[id].items())
    lab.adapter([]).load_core(parts.core)
    assert list(parts.text) == ["bert.x.weight"]
    back = to_release(parts)
    assert back.keys() == released.keys()
    assert all(torch.equal(back[key], released[key]) for key in released)


def test_split_gate_rows_share_no_memory(released):
    packs = from_release(released, IDS).packs
    rows = {id: pack["layers.0.gate.weight"].untyped_storage().data_ptr() for id, pack in packs.items()}
    assert rows["alpha"] != rows["gamma"]


def test_another_number_of_experts_is_refused(released):
    with pytest.raises(CheckpointError, match="got (2 rows; expected 3|blocks)"):
        from_release(released, (*IDS, "beta"))
    with pytest.raises(CheckpointError, match="1 experts|2 rows; expected 1"):
        from_release(released, IDS[:1])


def test_an_unknown_name_is_refused_either_way(released):
    with pytest.raises(CheckpointError, match="got blocks.0.norm5.weight"):
        from_release(released | {"blocks.0.norm5.weight": torch.ones(1)}, IDS)
    parts = from_release(released, IDS)
    parts.packs["alpha"]["layers.0.extra.weight"] = torch.ones(1)
    with pytest.raises(CheckpointError, match="alpha: layers.0.extra.weight"):
        to_release(parts)


def test_a_pack_without_its_gate_row_is_refused(released):
    parts = from_release(released, IDS)
    del parts.packs["gamma"]["layers.1.gate.bias"]
    with pytest.raises(CheckpointError, match="blocks.1.gate.2.bias; got 1 rows; expected 2"):
        to_release(parts)


def test_rotary_tables_are_checked_kept_and_may_be_rounded(released):
    cos, sin = release_tables((4, 4), 8)
    key = "blocks.0.cross_attn.1.rope.freqs_"
    tables = {f"{key}cos": cos, f"{key}sin": sin.bfloat16().float()}
    back = to_release(from_release(released | tables, IDS))
    assert all(torch.equal(back[name], table) for name, table in tables.items())
    with pytest.raises(CheckpointError, match=f"rotary table.*got {key}sin"):
        from_release(released | {f"{key}sin": cos}, IDS)
    with pytest.raises(CheckpointError, match="rotary table"):
        from_release(released | {f"{key}sin": sin[:15]}, IDS)
