"""CLIP as base encoder: the promises of every encoder, numbers of the released code, each layout of weights.

`data/reference_*` and `data/stream*` were recorded from the released MoVA code: features at small sizes with
random weights in float32, and what its image processor gives.

Notation for tensor shapes:
    h, w: picture in pixels, n: patch tokens, c: channels
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPVisionConfig

from mova_core.cards.card import ExpertCard
from mova_core.cards.resolve import usable_expert
from mova_core.cards.stream import InputStream
from mova_core.errors import ExpertLoadError
from mova_core.experts.streams import stream_tensor
from mova_core.testing import ExpertConformance
from mova_core.testing.files import one_file, sharded
from mova_expert_clip.expert import RELEASED, ClipEncoder
from mova_expert_clip.positions import resized

DATA = Path(__file__).parent / "data"
CPU = torch.device("cpu")
TOLERANCE = 2e-5
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 84,
    "patch_size": 14,
}

State = dict[str, Tensor]


class TestClip(ExpertConformance):
    expert = "clip"
    full = RELEASED
    preprocessing = DATA / "preprocessing.safetensors"

    def test_its_own_stream_is_that_of_the_card(self, card: ExpertCard) -> None:
        with torch.device("meta"):
            assert ClipEncoder.from_config(**RELEASED).stream == card.input

    def test_memory_is_that_of_the_parameters(self, card: ExpertCard) -> None:
        for dtype, size in (("float32", 4), ("bfloat16", 2)):
            assert card.memory_mb[dtype] == pytest.approx(card.parameters * size / 2**20, abs=0.1)


# Weights: those of the reference, as each publisher names them


def released(state: State) -> State:
    others = {"model.embed_tokens.weight": torch.zeros(2, 2)}
    return {f"model.vision_tower.vision_tower_0.{name}": tensor for name, tensor in state.items()} | others


def whole_clip(state: State) -> State:
    """transformers' CLIPModel, as it is on the hub: with the text tower and a table of indices."""
    return state | {
        "vision_model.embeddings.position_ids": torch.arange(37)[None],
        "text_model.final_layer_norm.weight": torch.ones(2),
        "visual_projection.weight": torch.ones(2, 2),
        "logit_scale": torch.tensor(1.0),
    }


def vision_tower(state: State) -> State:
    """transformers' CLIPVisionModel, as it is saved now."""
    return {name.removeprefix("vision_model."): tensor for name, tensor in state.items()}


def openai(state: State) -> State:
    """OpenAI's names, with queries, keys and values in one projection."""
    tower = vision_tower(state)
    named = {
        "class_embedding": tower["embeddings.class_embedding"],
        "positional_embedding": tower["embeddings.position_embedding.weight"],
        "conv1.weight": tower["embeddings.patch_embedding.weight"],
        "proj": torch.ones(32, 16),
    }
    for kind in ("weight", "bias"):
        named[f"ln_pre.{kind}"] = tower[f"pre_layrnorm.{kind}"]
        named[f"ln_post.{kind}"] = tower[f"post_layernorm.{kind}"]
        for layer in range(3):
            old, new = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            named[f"{new}.attn.in_proj_{kind}"] = torch.cat(
                [tower[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            )
            for theirs, ours in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
            ):
                named[f"{new}.{theirs}.{kind}"] = tower[f"{old}.{ours}.{kind}"]
    others = {"logit_scale": torch.tensor(1.0), "transformer.resblocks.0.ln_1.weight": torch.ones(2)}
    return {f"visual.{name}": tensor for name, tensor in named.items()} | others


def pickled(state: State, folder: Path) -> None:
    torch.save(state, folder / "pytorch_model.bin")


LAYOUTS: dict[str, Callable[[State], State]] = {
    "released": released,
    "whole_clip": whole_clip,
    "vision_tower": vision_tower,
    "openai": openai,
}


@pytest.fixture(scope="module")
def weights() -> State:
    """Of the reference: the released names inside the tower, positions of the trained 6x6 grid."""
    return load_file(DATA / "reference_weights.safetensors")


@pytest.fixture(scope="module")
def reference() -> State:
    return load_file(DATA / "reference_io.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that states the sizes of the reference."""
    CLIPVisionConfig(**SIZES).save_pretrained(tmp_path)
    return tmp_path


def load(source: Path, dtype: torch.dtype = torch.float32, side: int = 168) -> ClipEncoder:
    return ClipEncoder.from_pretrained(str(source), dtype=dtype, device=CPU, side=side).eval()


# Numbers of the release


def test_positions_are_resized_as_in_the_release(weights: State, reference: State) -> None:
    table = weights["vision_model.embeddings.position_embedding.weight"]
    expected = reference["out.resized_position_embedding"]
    torch.testing.assert_close(resized(table, 12), expected, rtol=0, atol=1e-6)


def test_positions_that_fit_are_left_alone(weights: State) -> None:
    table = weights["vision_model.embeddings.position_embedding.weight"]
    assert resized(table, 6) is table


@pytest.mark.parametrize(
    ("layout", "write"),
    [
        ("released", one_file),
        ("released", sharded),
        ("whole_clip", one_file),
        ("whole_clip", pickled),
        ("vision_tower", one_file),
        ("vision_tower", pickled),
        ("openai", one_file),
        ("openai", pickled),
    ],
)
@torch.no_grad()
def test_features_are_those_of_the_release_from_every_layout(
    layout: str,
    write: Callable[[State, Path], None],
    weights: State,
    reference: State,
    folder: Path,
) -> None:
    write(LAYOUTS[layout](weights), folder)
    features = load(folder)(reference["in.x"])
    assert features.grid == (12, 12)
    expected = reference["out.feature_select_m2_patch"]  # [b, n, c]
    torch.testing.assert_close(features.tokens, expected, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_positions_may_be_resized_already(weights: State, reference: State, folder: Path) -> None:
    resized = {
        "vision_model.embeddings.position_embedding.weight": reference["out.resized_position_embedding"]
    }
    one_file(released(weights | resized), folder)
    tokens = load(folder)(reference["in.x"]).tokens
    torch.testing.assert_close(tokens, reference["out.feature_select_m2_patch"], rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_the_sizes_may_be_those_of_a_whole_clip(weights: State, reference: State, tmp_path: Path) -> None:
    CLIPConfig(vision_config=SIZES).save_pretrained(tmp_path)
    one_file(whole_clip(weights), tmp_path)
    tokens = load(tmp_path)(reference["in.x"]).tokens
    torch.testing.assert_close(tokens, reference["out.feature_select_m2_patch"], rtol=0, atol=TOLERANCE)


def made_picture(name: str) -> Image.Image:
    """The pictures of the reference, made by formula."""
    kind, size = name.split("_")
    width, height = map(int, size.split("x"))
    y, x = np.mgrid[:height, :width]
    if kind == "gradient":
        channels = [x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 255 // (width + height - 2)]
    else:
        light = (x // 13 + y // 7) % 2 * 255
        channels = [light, 255 - light, (x * 3 + y * 5) % 256]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


@pytest.fixture(scope="module")
def stream() -> InputStream:
    card = usable_expert("clip").card
    assert card is not None
    return card.input


@pytest.mark.parametrize("name", ["gradient_123x457", "checker_640x333"])
class TestPreprocessing:
    def test_a_small_stream_is_that_of_the_release(self, stream: InputStream, name: str) -> None:
        small = stream.model_copy(update={"size": (112, 112)})
        expected = load_file(DATA / "streams_112.safetensors")[name]  # [3, h, w]
        prepared = stream_tensor([made_picture(name)], small)[0]
        torch.testing.assert_close(prepared, expected, rtol=0, atol=1e-6)

    def test_every_pixel_at_full_size_is_that_of_the_release(self, stream: InputStream, name: str) -> None:
        assert stream.mean is not None and stream.std is not None
        mean, std = (torch.tensor(values)[:, None, None] for values in (stream.mean, stream.std))
        pixels = (stream_tensor([made_picture(name)], stream)[0] * std + mean) * 255  # [3, h, w]
        expected = np.asarray(Image.open(DATA / f"stream_672_{name}.png"))  # [h, w, 3]
        assert np.array_equal(pixels.round().permute(1, 2, 0).numpy(), expected)


# Loading what does not fit


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda state, name: state.pop(name), "1 missing .*encoder.layers.1.mlp.fc2.bias"),
        (lambda state, name: state.update({f"{name}_too": torch.zeros(1)}), "1 surplus .*mlp.*bias_too"),
        (
            lambda state, name: state.update({name: torch.zeros(31)}),
            r"1 of another shape .*encoder.layers.1.mlp.fc2.bias \(31,\) instead of \(32,\)",
        ),
    ],
    ids=["missing", "surplus", "shape"],
)
def test_weights_that_do_not_fit_are_named(
    layout: str, spoil: Callable[[State, str], object], said: str, weights: State, folder: Path
) -> None:
    state = LAYOUTS[layout](weights)
    spoil(state, next(name for name in state if name.endswith((".1.mlp.fc2.bias", ".1.mlp.c_proj.bias"))))
    one_file(state, folder)
    with pytest.raises(ExpertLoadError, match=said):
        load(folder)


@pytest.mark.parametrize("rows", [0, 1, 36, 38])
def test_positions_of_no_square_grid_are_refused(rows: int, weights: State, folder: Path) -> None:
    name = "vision_model.embeddings.position_embedding.weight"
    one_file(weights | {name: torch.zeros(rows, 32)}, folder)
    with pytest.raises(ExpertLoadError, match=rf"square grid.*\({rows}, 32\)"):
        load(folder)


def test_missing_positions_are_named(weights: State, folder: Path) -> None:
    name = "vision_model.embeddings.position_embedding.weight"
    one_file({each: tensor for each, tensor in weights.items() if each != name}, folder)
    with pytest.raises(ExpertLoadError, match="1 missing .*position_embedding"):
        load(folder)


def test_an_unknown_layout_is_refused(folder: Path) -> None:
    one_file({"trunk.blocks.0.attn.qkv.weight": torch.zeros(1)}, folder)
    with pytest.raises(ExpertLoadError, match="in no layout"):
        load(folder)


@torch.no_grad()
def test_what_is_never_used_may_be_absent(weights: State, reference: State, folder: Path) -> None:
    unused = ("vision_model.encoder.layers.2.", "vision_model.post_layernorm.")
    one_file({name: tensor for name, tensor in weights.items() if not name.startswith(unused)}, folder)
    tokens = load(folder)(reference["in.x"]).tokens
    torch.testing.assert_close(tokens, reference["out.feature_select_m2_patch"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_is_honoured(dtype: torch.dtype, weights: State, folder: Path) -> None:
    one_file(openai({name: tensor.half() for name, tensor in weights.items()}), folder)
    assert {parameter.dtype for parameter in load(folder, dtype).parameters()} == {dtype}


def test_loaded_weights_can_be_saved_again(weights: State, folder: Path) -> None:
    one_file(openai(weights), folder)
    save_file(load(folder).state_dict(), folder / "again.safetensors")  # refuses tensors that share memory


@pytest.mark.parametrize(
    "text", ["{", '{"model_type": "clip"}', '{"model_type": "clip_vision_model", "hidden_size": 0.5}']
)
def test_a_broken_configuration_is_named(text: str, weights: State, tmp_path: Path) -> None:
    one_file(weights, tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ExpertLoadError, match=r"config\.json"):
        load(tmp_path)


def test_patches_must_be_square(weights: State, folder: Path) -> None:
    CLIPVisionConfig(**SIZES | {"patch_size": [14, 7]}).save_pretrained(folder)
    one_file(weights, folder)
    with pytest.raises(ExpertLoadError, match=r"not square.*\[14, 7\]"):
        load(folder)


def test_another_models_configuration_leaves_the_released_sizes(weights: State, tmp_path: Path) -> None:
    one_file(released(weights), tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mova_llama", "hidden_size": 32}')
    with pytest.raises(ExpertLoadError, match=r"class_embedding \(32,\) instead of \(1024,\)"):
        load(tmp_path)


def test_a_size_that_does_not_exist_is_named() -> None:
    with pytest.raises(TypeError, match="not depth"):
        ClipEncoder.from_config(depth=3)
