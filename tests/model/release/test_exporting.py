"""The way back to the released layout, bit for bit, and what stops it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from mova_core.errors import CheckpointError
from mova_core.fusion.rotary import release_tables
from mova_core.model.load import load
from mova_core.model.modeling import MovaForConditionalGeneration
from mova_core.model.release.exporting import export_release
from mova_core.model.release.importing import ImportOptions, import_release
from mova_core.model.release.naming import EXPERTS

pytestmark = pytest.mark.filterwarnings("ignore::mova_core.cards.warning.CardWarning")


@pytest.fixture
def own(release: Path, tmp_path: Path) -> Path:
    """A copy of the release to change."""
    return Path(shutil.copytree(release, tmp_path / "own"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a release."""
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        assert torch.equal(tensor.view(torch.uint8), right[name].view(torch.uint8)), name


def test_there_and_back_gives_the_same_files(
    mova: Callable[..., Any], release: Path, profile: Path, tmp_path: Path
) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    done = mova("convert", str(release), str(there), "--profile", str(profile))
    assert (done.code, "mova ask --model" in done.out) == (0, True), done.err
    done = mova("convert", "--to-release", str(there), str(back))
    assert done.code == 0, done.err
    whole = {path.relative_to(release) for path in release.rglob("*") if path.is_file()}
    assert {path.relative_to(back) for path in back.rglob("*") if path.is_file()} == whole
    for name in whole:
        assert (back / name).read_bytes() == (release / name).read_bytes()


def test_pickled_shards_with_rotary_tables(own: Path, profile: Path, tmp_path: Path) -> None:
    state = weights(own)
    for file in own.glob("*.safetensors*"):
        file.unlink()
    cos, sin = release_tables((12, 12), 64)
    for kind, table in (("cos", cos), ("sin", sin)):
        for block in range(3):
            for place in ("self_attn", *(f"cross_attn.{j}" for j in range(len(EXPERTS)))):
                state[f"model.mm_projector.blocks.{block}.{place}.rope.freqs_{kind}"] = table
    names = sorted(state)
    halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, keys in halves.items():
        torch.save({key: state[key] for key in keys}, own / file)
    index = {"weight_map": {key: file for file, keys in halves.items() for key in keys}}
    (own / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    there = import_release(own, tmp_path / "there", ImportOptions(profile=profile))
    with safe_open(there / "release" / "aside.safetensors", framework="pt") as aside:
        assert len(list(aside.keys())) == 2 * 3 * 8
    back = export_release(there, tmp_path / "back")
    assert {file.name for file in back.glob("model*")} == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    }
    same_bits(weights(back), state)


def test_what_was_trained_since_goes_back_too(imported: Path, release: Path, tmp_path: Path) -> None:
    model = MovaForConditionalGeneration.from_pretrained(imported, dtype=torch.float32)
    with torch.no_grad():
        model.adapter.pack("sam").layer(1).gate.bias.fill_(0.5)
    model.save_pretrained(tmp_path / "trained")
    trained = load(tmp_path / "trained", dtype=torch.float32)
    assert trained.pool.encode_all([Image.new("RGB", (8, 8))], "sam").channels == 16
    back = weights(export_release(tmp_path / "trained", tmp_path / "back"))
    assert back["model.mm_projector.blocks.1.gate.2.bias"][EXPERTS.index("sam")] == 0.5
    towers = {name: tensor for name, tensor in weights(release).items() if "vision_tower" in name}
    assert towers
    same_bits({name: back[name] for name in towers}, towers)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file": "/tmp/victim.safetensors"}, "cannot be read"),
        ({"file": "../victim.safetensors"}, "cannot be read"),
        ({"file": "victim.txt"}, "cannot be read"),
        ({"tensors": ["model.surprise"]}, "no release has"),
        ({"tensors": []}, "names no file for a weight"),
        ({"tensors": "x"}, "cannot be read"),
    ],
)
def test_a_changed_layout_is_refused(
    imported: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    own = Path(shutil.copytree(imported, tmp_path / "inner" / "own"))
    layout = json.loads((own / "release" / "layout.json").read_text())
    layout["shards"][0] |= change
    (own / "release" / "layout.json").write_text(json.dumps(layout))
    with pytest.raises(CheckpointError, match=said):
        export_release(own, tmp_path / "inner" / "out")
    assert not list(tmp_path.rglob("victim*"))


@pytest.mark.parametrize("extra", ["answer", "packs/mine.safetensors"])
def test_what_a_release_cannot_hold_is_not_dropped(imported: Path, tmp_path: Path, extra: str) -> None:
    own = Path(shutil.copytree(imported, tmp_path / "own"))
    if extra == "answer":
        (own / extra).mkdir()
    else:
        shutil.copy(own / "packs" / "sam.safetensors", own / extra)
    with pytest.raises(CheckpointError, match="no place for a part"):
        export_release(own, tmp_path / "out")
