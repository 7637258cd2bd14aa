"""Weights in the ways publishers ship them: files, shards, wrappers, names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mova_core.errors import ExpertLoadError
from mova_core.experts.files import WeightFiles
from mova_core.experts.layouts import Layout, fill, pretrained

STATE = {"proj.weight": torch.arange(6.0).view(2, 3), "proj.bias": torch.ones(2), "count": torch.tensor(3)}
INNER = {
    "attn.qkv.weight": torch.arange(6.0).view(2, 3),
    "attn.qkv.bias": torch.ones(2),
    "count": torch.tensor(3),
}
LAYOUTS = (
    Layout("ours", mark="proj.weight", unused=(r"head\.",)),
    Layout(
        "theirs",
        prefix="model.tower.",
        mark="attn.qkv.weight",
        rename=((r"^attn\.qkv\.", "proj."),),
        convert=lambda state: state | {"proj.bias": state["proj.bias"] * 2},
    ),
)


class Encoder(nn.Module):
    """A projection with a counter, and a buffer that no file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(3, 2)
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("table", torch.arange(4.0), persistent=False)


def _sharded(
    folder: Path, state: Mapping[str, Tensor], index: str, write: Callable[..., None], name: str
) -> Path:
    folder.mkdir()
    weight_map = {}
    for number, (key, tensor) in enumerate(state.items()):
        file = name.format(number)
        write({key: tensor}, folder / file)
        weight_map[key] = file
    (folder / index).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def _one(folder: Path, state: Mapping[str, Tensor], write: Callable[..., None], name: str) -> Path:
    folder.mkdir()
    write(dict(state), folder / name)
    return folder


def _legacy(state: object, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


SHIPPED: dict[str, Callable[[Path, Mapping[str, Tensor]], Path]] = {
    "a safetensors file": lambda at, state: _one(at, state, save_file, "w.safetensors") / "w.safetensors",
    "a snapshot": lambda at, state: _one(at, state, save_file, "model.safetensors"),
    "a folder of one .pth": lambda at, state: _one(at, state, torch.save, "sam_vit_h.pth"),
    "an old .bin": lambda at, state: _one(at, state, _legacy, "pytorch_model.bin"),
    "a trainer's checkpoint": lambda at, state: _one(
        at, {}, lambda _, path: torch.save({"state_dict": dict(state), "epoch": 3}, path), "last.pth"
    ),
    "safetensors shards": lambda at, state: _sharded(
        at, state, "model.safetensors.index.json", save_file, "model-{}.safetensors"
    ),
    "pickled shards": lambda at, state: _sharded(
        at, state, "pytorch_model.bin.index.json", torch.save, "pytorch_model-{}.bin"
    ),
}


@pytest.mark.parametrize("shipped", SHIPPED)
def test_every_way_of_shipping_is_read(shipped: str, tmp_path: Path) -> None:
    with WeightFiles(SHIPPED[shipped](tmp_path / "w", STATE)) as files:
        assert files.keys() == STATE.keys()
        assert all(torch.equal(files[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("shipped", SHIPPED)
@pytest.mark.parametrize(("prefix", "state", "bias"), [("", STATE, 1.0), ("model.tower.", INNER, 2.0)])
def test_an_encoder_is_filled_from_any_layout(
    shipped: str, prefix: str, state: Mapping[str, Tensor], bias: float, tmp_path: Path
) -> None:
    named = {prefix + name: tensor for name, tensor in state.items()}
    named |= {"head.weight": torch.zeros(1)} if not prefix else {"lm_head.weight": torch.zeros(1)}
    source = SHIPPED[shipped](tmp_path / "w", named)
    encoder = pretrained(Encoder, source, LAYOUTS, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert torch.equal(encoder.proj.weight, STATE["proj.weight"].bfloat16())
    assert encoder.proj.bias[0] == bias and encoder.proj.weight.dtype == torch.bfloat16
    assert encoder.count == 3 and encoder.count.dtype == torch.int64  # type: ignore[operator, union-attr]
    assert encoder.table.tolist() == [0, 1, 2, 3]  # type: ignore[operator, union-attr]


def test_what_was_not_needed_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file(STATE | {"head.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    assert fill(Encoder(), tmp_path / "w.safetensors", LAYOUTS).unused == ("head.weight",)
    with caplog.at_level("INFO"):
        pretrained(
            Encoder, tmp_path / "w.safetensors", LAYOUTS, dtype=torch.float32, device=torch.device("cpu")
        )
    assert "1 tensors not needed (head.weight)" in caplog.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"proj.bias": None}, r"1 missing \(proj.bias\)"),
        ({"extra": torch.ones(1)}, r"1 surplus \(extra\)"),
        ({"proj.bias": torch.ones(5)}, r"1 of another shape \(proj.bias \(5,\) instead of \(2,\)\)"),
        (
            {"proj.weight": None, "other": torch.ones(1)},
            "in no layout that Encoder knows; .*ours, with proj.weight",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_named_and_changes_nothing(
    changed: Mapping[str, Tensor | None], said: str, tmp_path: Path
) -> None:
    state = {name: tensor for name, tensor in (STATE | changed).items() if tensor is not None}
    save_file(state, tmp_path / "w.safetensors")
    encoder = Encoder()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(ExpertLoadError, match=said):
        fill(encoder, tmp_path / "w.safetensors", LAYOUTS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no weights to read.*no weight file"),
        ({"a.pth": b"", "b.pth": b""}, "no weights to read.*a.pth, b.pth"),
        ({"model.safetensors": b"short"}, "cannot be read; it is corrupt"),
        ({"w.pth": b"nothing of torch"}, "cannot be read; it is corrupt"),
        ({"model.safetensors.index.json": b"[]"}, "index of the shards cannot be read"),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "gone.safetensors"}}'},
            "shards are missing; got gone.safetensors",
        ),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "../../etc/passwd"}}'},
            "shards are missing; got passwd",
        ),
    ],
)
def test_bad_folders_are_named(files: Mapping[str, bytes], said: str, tmp_path: Path) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ExpertLoadError, match=said):
        WeightFiles(tmp_path)


def test_two_tensors_for_one_weight_are_refused() -> None:
    layout = Layout("both", mark="a", rename=((r"^[ab]$", "w"),))
    with pytest.raises(ExpertLoadError, match="two tensors mean the same weight; got b; expected one for w"):
        layout.read({"a": torch.ones(1), "b": torch.ones(1)})


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"weight": Trap()}, tmp_path / "w.pth")
    with pytest.raises(ExpertLoadError, match="cannot be read"):
        WeightFiles(tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()


def test_a_fused_projection_is_cut_along_its_outputs() -> None:
    layout = Layout("x", "a.qkv.weight", fused={"qkv": ("q", "k", "v")})
    whole = torch.arange(12.0).reshape(6, 2)
    own, _ = layout.read({"a.qkv.weight": whole, "a.norm.weight": torch.ones(1)})
    assert list(own) == ["a.q.weight", "a.k.weight", "a.v.weight", "a.norm.weight"]
    assert torch.equal(torch.cat([own[f"a.{part}.weight"] for part in "qkv"]), whole)
    assert len({tensor.untyped_storage().data_ptr() for tensor in own.values()}) == 4
    with pytest.raises(ExpertLoadError, match="same weight"):
        layout.read({"a.qkv.weight": whole, "a.q.weight": whole})
