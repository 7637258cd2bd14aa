"""The expert `pix2struct`: what it promises, its numbers, its patches and its weight files.

The references were recorded from the released MoVA code on random weights and on pictures made by formula.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Pix2StructConfig, Pix2StructForConditionalGeneration, Pix2StructVisionConfig

from mova_core.cards.resolve import usable_expert
from mova_core.cards.stream import InputStream
from mova_core.errors import ConfigError, ExpertLoadError
from mova_core.testing import ExpertConformance
from mova_core.testing.files import sharded
from mova_expert_pix2struct.expert import RELEASED, Pix2StructExpert, patch_stream
from mova_expert_pix2struct.patches import PatchReader, feasible_grid, flattened_patches
from mova_expert_pix2struct.sizes import sizes_beside

DATA = Path(__file__).parent / "data"
SIZES: dict[str, int] = json.loads((DATA / "i_pix2struct.json").read_text())["config"]
TOWER = "model.vision_tower.vision_tower_4."


class TestConformance(ExpertConformance):
    expert = "pix2struct"
    full = RELEASED
    preprocessing = DATA / "preprocessing.safetensors"


class Small(Pix2StructExpert):
    """The expert as if the reference's sizes had been released."""

    released = {**SIZES, "patches": 49}


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return load_file(DATA / "i_pix2struct_weights.safetensors")


# Features


def test_features_equal_the_release(reference: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({TOWER + name: tensor for name, tensor in reference.items()}, tmp_path / "tower.safetensors")
    expert = _load(Small, tmp_path / "tower.safetensors")
    recorded = load_file(DATA / "i_pix2struct_io.safetensors")
    with torch.no_grad():
        features = expert(recorded["in.flattened_patches"])  # the second picture has rows of zeros
        whole = expert(recorded["in.flattened_patches"][:1])
    assert features.grid == (7, 7)
    torch.testing.assert_close(features.tokens, recorded["out.last_hidden_state"], rtol=0, atol=2e-5)
    torch.testing.assert_close(whole.tokens, recorded["out.full_only"], rtol=0, atol=2e-5)


def test_places_without_a_patch_change_nothing() -> None:
    expert = Pix2StructExpert.from_config().eval()
    stream = torch.randn(1, 16, 770)
    stream[..., :2] = torch.tensor([[row, column] for row in (1.0, 2, 3, 4) for column in (1.0, 2, 3, 4)])
    stream[:, 9:] = 0
    other = stream.clone()
    other[:, 9:, 2:] = 1.0  # whatever lies there, row 0 masks it
    with torch.no_grad():
        assert torch.equal(expert(stream).tokens[:, :9], expert(other).tokens[:, :9])


# Patches


def _gradient(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return _image(x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) * 255 // (x + y).max())


def _checker(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    red = (x // 13 + y // 7) % 2 * 255
    return _image(red, 255 - red, (x * 3 + y * 5) % 256)


def _noise(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width].astype(np.int64)
    mixed = (x * 374761393 + y * 668265263) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0xFFFFFFFF
    mixed ^= mixed >> 16
    return _image(mixed & 255, (mixed >> 8) & 255, (mixed >> 16) & 255)


def _image(*channels: Any) -> Image.Image:
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


_PICTURES: Mapping[str, Callable[[int, int], Image.Image]] = {
    "gradient": _gradient,
    "checker": _checker,
    "noise": _noise,
}


def _pictured(name: str) -> Image.Image:
    """The picture of a reference's name, such as `gradient_123x457`."""
    kind, _, size = name.partition("_")
    width, _, height = size.partition("x")
    return _PICTURES[kind](int(width), int(height))


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("name", ["gradient_123x457", "checker_640x333"])
def test_patches_at_released_size(name: str, compat: bool) -> None:
    stored = load_file(DATA / "f_full_pix2struct_rows.safetensors")[f"full2025.pad.{name}.every9th_row"]
    stream = patch_stream(2025, 768, compat=compat)
    patches = PatchReader(stream)([_pictured(name)])
    assert patches.shape == (1, 2025, 770)
    torch.testing.assert_close(patches[0, ::9], stored, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["gradient_123x457", "checker_640x333", "noise_112x112"])
def test_patches_at_small_size(name: str) -> None:
    stored = load_file(DATA / "f_small_pix2struct.safetensors")[f"pad.{name}"]
    patches = PatchReader(patch_stream(49, 768))([_pictured(name)])
    torch.testing.assert_close(patches[0], stored, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["gradient_123x457", "checker_640x333"])
def test_patches_in_a_pictures_own_proportions(name: str) -> None:
    stored = load_file(DATA / "f_small_pix2struct.safetensors")[f"square.{name}"]  # not padded to a square
    pixels = torch.from_numpy(np.array(_pictured(name))).permute(2, 0, 1).float()
    grid = feasible_grid(*pixels.shape[1:], patches=49, patch=16)
    patches = flattened_patches(pixels, grid, patches=49, patch=16)
    torch.testing.assert_close(patches, stored, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("patches", "side"), [(2025, 45), (49, 7)])
def test_the_rounding_hits_the_sizes_it_hits_in_the_release(patches: int, side: int) -> None:
    hit = json.loads((DATA / "f_preprocessing.json").read_text())["rounded_down"][str(patches)]
    grids = {size: feasible_grid(size, size, patches=patches, patch=16) for size in range(1, 4097)}
    assert [size for size, grid in grids.items() if grid != (side, side)] == hit
    assert {grids[size] for size in hit} == {(side - 1, side - 1)}


@pytest.mark.parametrize("size", [(112, 112), (48, 24), (1, 1)])
def test_the_grid_is_whole_by_default(size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patches = PatchReader(patch_stream(49, 768))([Image.new("RGB", size, "red")])[0]
    assert patches[-1, :2].tolist() == [7, 7] and patches.isfinite().all()


def test_compat_rounds_as_the_release_does_and_warns() -> None:
    expert = Pix2StructExpert.from_config(patches=49, compat=True)
    with pytest.warns(UserWarning, match="48x48 pixels gives 6x6 patches"):
        patches = expert.preprocess([_noise(48, 30)])[0]
    assert patches[35, :2].tolist() == [6, 6] and not patches[36:].any()


def test_the_card_says_what_the_release_did() -> None:
    recorded = json.loads((DATA / "f_preprocessing.json").read_text())
    card = usable_expert("pix2struct").card
    assert card is not None and card.input == patch_stream(2025, 768)
    assert list(card.input.pad_colour or ()) == recorded["pad_colour"]
    assert card.input.patches == recorded["preprocessor_config"]["max_patches"]


def test_a_stretched_picture_fills_the_square_too() -> None:
    changed = {"fit": "stretch", "pad_colour": None}
    stream = InputStream(**{**patch_stream(49, 768).model_dump(), **changed})
    wide, square = _gradient(90, 30), _gradient(90, 30).resize((112, 112))
    patches = PatchReader(stream)([wide, square])
    assert patches.shape == (2, 49, 770)
    torch.testing.assert_close(patches[0], patches[1], rtol=0, atol=0.5)  # PIL resized one of them


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"patches": 50, "size": None}, "square grid"),
        ({"size": (720, 736)}, "another size"),
        ({"fit": "keep", "pad_colour": None}, "square grid"),
    ],
)
def test_a_stream_without_a_square_grid_is_refused(changed: dict[str, object], says: str) -> None:
    stream = InputStream(**{**patch_stream(2025, 768).model_dump(), **changed})
    with pytest.raises(ConfigError, match=says):
        PatchReader(stream)


def test_a_card_with_other_patches_is_refused() -> None:
    card = usable_expert("pix2struct").card
    assert card is not None
    with pytest.raises(ExpertLoadError, match="768 values; expected 192"):
        Pix2StructExpert.from_config(patch_embed_hidden_size=192).bind(card)  # patches of 8 pixels


# Weights


def _whole(reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reference as `Pix2StructForConditionalGeneration` holds it."""
    text = {"hidden_size": 48, "d_ff": 64, "d_kv": 16, "num_heads": 3, "num_layers": 1, "vocab_size": 20}
    config = Pix2StructConfig(vision_config=SIZES, text_config=text)
    model = Pix2StructForConditionalGeneration(config)
    model.encoder.load_state_dict(reference)
    return model.state_dict()


_LAYOUTS: Mapping[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "pix2struct": _whole,
    "pix2struct_vision_model": dict,
    "mova": lambda reference: {
        "model.embed_tokens.weight": torch.zeros(2, 2),
        **{TOWER + name: tensor for name, tensor in reference.items()},
    },
}


def _write(folder: Path, state: Mapping[str, Tensor], form: str, model_type: str = "") -> Path:
    """Write weights in a form that publishers use; with a configuration where there is a model type."""
    state = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    if model_type:
        sizes = {"vision_config": SIZES} if model_type == "pix2struct" else SIZES
        (folder / "config.json").write_text(json.dumps({"model_type": model_type, **sizes}))
    if form == "sharded":
        sharded(state, folder)
    elif form.endswith(".safetensors"):
        save_file(state, folder / form)
    else:
        torch.save(state, folder / form)
    return folder


def _load(kind: type[Pix2StructExpert], source: Path, dtype: torch.dtype = torch.float32) -> Pix2StructExpert:
    return kind.from_pretrained(str(source), dtype=dtype, device=torch.device("cpu"))


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin", "weights.pth", "sharded"])
@pytest.mark.parametrize("layout", _LAYOUTS)
def test_every_layout_and_form_gives_the_same_features(
    layout: str, form: str, reference: dict[str, Tensor], tmp_path: Path
) -> None:
    _write(tmp_path, _LAYOUTS[layout](reference), form, model_type=layout)
    kind = (
        Small if layout == "mova" else Pix2StructExpert
    )  # a foreign configuration says nothing of the tower
    state = _load(kind, tmp_path).encoder.state_dict()
    assert state.keys() == reference.keys()
    assert all(torch.equal(state[name], reference[name]) for name in reference)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_the_one_asked_for(
    dtype: torch.dtype, reference: dict[str, Tensor], tmp_path: Path
) -> None:
    expert = _load(Small, _write(tmp_path, reference, "model.safetensors"), dtype)
    assert {parameter.dtype for parameter in expert.parameters()} == {dtype}
    assert not expert.training


@pytest.mark.parametrize("layout", _LAYOUTS)
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("missing", r"1 missing \(encoder\.layer\.1\.mlp\.wo\.weight\)"),
        ("surplus", r"1 surplus \(encoder\.layer\.2\.mlp\.wo\.weight\)"),
        ("shape", r"of another shape \(layernorm\.weight \(47,\) instead of \(48,\)\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    wrong: str, says: str, layout: str, reference: dict[str, Tensor], tmp_path: Path
) -> None:
    state = dict(reference)
    if wrong == "missing":
        del state["encoder.layer.1.mlp.wo.weight"]
    elif wrong == "surplus":
        state["encoder.layer.2.mlp.wo.weight"] = state["encoder.layer.1.mlp.wo.weight"]
    else:
        state["layernorm.weight"] = state["layernorm.weight"][:47]
    if layout == "pix2struct":
        state = {"encoder." + name: tensor for name, tensor in state.items()}
    elif layout == "mova":
        state = {TOWER + name: tensor for name, tensor in state.items()}
    _write(tmp_path, state, "model.safetensors")
    with pytest.raises(ExpertLoadError, match=says):
        _load(Small, tmp_path)


def test_a_tensor_of_neither_encoder_nor_decoder_is_surplus(
    reference: dict[str, Tensor], tmp_path: Path
) -> None:
    state = {**_whole(reference), "adapter.weight": torch.zeros(2)}
    with pytest.raises(ExpertLoadError, match=r"1 surplus \(adapter\.weight\)"):
        _load(Small, _write(tmp_path, state, "model.safetensors"))


def test_unknown_names_are_answered_with_the_known_layouts(tmp_path: Path) -> None:
    with pytest.raises(ExpertLoadError, match="Pix2StructForConditionalGeneration"):
        _load(Small, _write(tmp_path, {"visual.stem.weight": torch.zeros(2)}, "model.safetensors"))


def test_a_broken_configuration_is_named(reference: dict[str, Tensor], tmp_path: Path) -> None:
    _write(tmp_path, reference, "model.safetensors")
    (tmp_path / "config.json").write_text(
        '{"model_type": "pix2struct", "vision_config": {"hidden_size": "x"}}'
    )
    with pytest.raises(ExpertLoadError, match=r"config\.json"):
        _load(Small, tmp_path)


def test_sizes_that_a_configuration_leaves_out_are_the_librarys(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "pix2struct", "vision_config": {"d_ff": 7}}')
    assert sizes_beside(tmp_path) == {
        **{name: getattr(Pix2StructVisionConfig(), name) for name in SIZES},
        "d_ff": 7,
    }
