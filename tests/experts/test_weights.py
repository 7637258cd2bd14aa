from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mova_core.errors import ExpertLoadError
from mova_core.experts.weights import load_strict, read_weights

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


class Trap:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return (Path.touch, (self.path,))


def _safetensors(path: Path) -> None:
    save_file(STATE, path)


def _torch(path: Path) -> None:
    torch.save(STATE, path)


def _legacy_torch(path: Path) -> None:
    torch.save(STATE, path, _use_new_zipfile_serialization=False)


WRITERS = {"w.safetensors": _safetensors, "w.pth": _torch, "w.bin": _legacy_torch}


@pytest.mark.parametrize("name", WRITERS)
def test_each_format_is_read(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    state = read_weights(tmp_path / name)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.97])
def test_a_truncated_file_is_refused_in_one_line(name: str, keep: float, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ExpertLoadError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def _header(header: object) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        b"not a weight file at all",
        struct.pack("<Q", 2**60) + b"{}",
        _header(b"{"),
        _header({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 999]}}),
        _header({"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}) + b"\0" * 4,
        _header({"w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}) + b"\0" * 4,
    ],
)
def test_hostile_safetensors_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(ExpertLoadError, match="cannot be read"):
        read_weights(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_code_in_a_pickle_is_not_run(save: Callable[[object, Path], object], tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    save({"weight": Trap(sprung)}, tmp_path / "w.pth")
    with pytest.raises(ExpertLoadError, match="holds more than tensors"):
        read_weights(tmp_path / "w.pth")
    assert not sprung.exists()


def test_nested_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"model": STATE, "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ExpertLoadError, match="more than named tensors; got model, epoch"):
        read_weights(tmp_path / "w.pth")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(ExpertLoadError, match="does not exist"):
            read_weights(path)


def test_a_flipped_bit_is_found_by_the_digest(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    _safetensors(path)
    data = bytearray(path.read_bytes())
    digest = hashlib.sha256(data).hexdigest()
    assert read_weights(path, sha256=digest).keys() == STATE.keys()
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ExpertLoadError, match=f"corrupt.*expected sha256 {digest}"):
        read_weights(path, sha256=digest)


def test_load_strict_fills_the_module_in_its_own_dtype() -> None:
    module = nn.Linear(3, 2, dtype=torch.bfloat16)
    load_strict(module, STATE, source="here")
    assert torch.equal(module.weight, STATE["weight"].bfloat16())


def test_load_strict_lists_what_does_not_fit_and_changes_nothing() -> None:
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    state = {"weight": STATE["weight"], "extra": torch.ones(1)}
    with pytest.raises(ExpertLoadError, match=r"1 missing \(bias\), 1 surplus \(extra\)"):
        load_strict(module, state, source="here")
    with pytest.raises(ExpertLoadError, match=r"weights of here .*\(weight \(4, 3\) instead of \(2, 3\)\)"):
        load_strict(module, STATE | {"weight": torch.ones(4, 3)}, source="here")
    with pytest.raises(ExpertLoadError, match=r"9 surplus \(x0, x1, x2, x3, x4 and 4 more\)"):
        load_strict(module, STATE | {f"x{i}": torch.ones(1) for i in range(9)}, source="here")
    assert torch.equal(module.weight, before)
