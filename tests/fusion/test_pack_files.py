"""A pack on disk comes back whole or is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from mova_core.errors import CheckpointError
from mova_core.fusion.pack_files import load_pack, pack_notes, save_pack


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pack_comes_back_bit_for_bit(lab, tmp_path, dtype):
    pack = lab.pack("beta").to(dtype)
    path = tmp_path / "packs" / "beta.safetensors"
    save_pack(pack, path, {"core": "1234"})
    back = load_pack(path)
    assert (back.width, back.channels, back.heads, back.depth) == (16, 6, 2, 2)
    state = pack.state_dict()
    assert back.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.state_dict().items())
    assert {tensor.dtype for tensor in back.parameters()} == {dtype}
    assert pack_notes(path)["core"] == "1234"
    assert [file.name for file in path.parent.iterdir()] == ["beta.safetensors"]


def test_a_file_that_is_cut_short_or_not_there_is_refused(lab, tmp_path):
    path = tmp_path / "alpha.safetensors"
    with pytest.raises(CheckpointError, match="could not be read"):
        load_pack(path)
    save_pack(lab.pack("alpha"), path)
    whole = path.read_bytes()
    for length in (0, 5, 300, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="could not be read.*alpha.safetensors"):
            load_pack(path)


def test_a_file_that_is_no_pack_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not a pack"):
        load_pack(path)
    save_file({"a": torch.zeros(1)}, path, {"format": "mova-pack-1", "width": "wide"})
    with pytest.raises(CheckpointError, match="numbers for width, channels, heads, depth"):
        load_pack(path)


@pytest.mark.parametrize(
    "name, value", [("width", "0"), ("heads", "-1"), ("depth", str(10**12)), ("depth", "1")]
)
def test_numbers_that_cannot_be_true_are_refused_before_anything_is_built(lab, tmp_path, name, value):
    path = tmp_path / "alpha.safetensors"
    save_pack(lab.pack("alpha"), path)
    save_file(load_file(path), path, pack_notes(path) | {name: value})
    with pytest.raises(CheckpointError, match="alpha.safetensors"):
        load_pack(path)


def test_a_pack_that_does_not_hold_what_it_says_is_refused(lab, tmp_path):
    path = tmp_path / "alpha.safetensors"
    save_pack(lab.pack("alpha"), path)
    notes, state = pack_notes(path), load_file(path)
    del state["layers.1.gate.bias"]
    save_file(state, path, notes)
    with pytest.raises(CheckpointError, match="lacks 1 weight; got layers.1.gate.bias"):
        load_pack(path)


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(lab, tmp_path):
    (tmp_path / "alpha.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="could not be written"):
        save_pack(lab.pack("alpha"), tmp_path / "alpha.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["alpha.safetensors"]
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="could not be written"):
        save_pack(lab.pack("alpha"), tmp_path / "file" / "alpha.safetensors")
