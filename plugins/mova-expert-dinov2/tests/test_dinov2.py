"""DINOv2-giant: the promises of every expert, numbers of the released code, and each layout of weights.

`data/reference_*` and `data/stream*` were recorded from the released MoVA code: features at small sizes with
random weights in float32, and what its image processor gives.

Notation for tensor shapes:
    h, w: picture in pixels, t: tokens with the class token, n: patch tokens, c: channels
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
from torch.nn import functional as F
from transformers import Dinov2Config

from mova_core.cards.card import ExpertCard
from mova_core.cards.resolve import usable_expert
from mova_core.cards.stream import InputStream
from mova_core.errors import ExpertLoadError
from mova_core.experts.streams import stream_tensor
from mova_core.testing import ExpertConformance
from mova_core.testing.files import one_file, sharded
from mova_expert_dinov2.expert import RELEASED, Dinov2Expert

DATA = Path(__file__).parent / "data"
PREFIX = "model.vision_tower.vision_tower_1."
CPU = torch.device("cpu")
TOLERANCE = 2e-5
PICTURES = ("same56", "up84", "down42", "rect70x98", "odd60x59")

State = dict[str, Tensor]


class TestDinov2(ExpertConformance):
    expert = "dinov2"
    full = RELEASED
    preprocessing = DATA / "preprocessing.safetensors"

    def test_its_own_stream_is_that_of_the_card(self, card: ExpertCard) -> None:
        with torch.device("meta"):
            assert Dinov2Expert.from_config(**RELEASED).stream == card.input

    def test_memory_is_that_of_the_parameters(self, card: ExpertCard) -> None:
        for dtype, size in (("float32", 4), ("bfloat16", 2)):
            assert card.memory_mb[dtype] == pytest.approx(card.parameters * size / 2**20, abs=0.1)


# Weights: the release's names, and the same tensors as others name them


def released(state: State) -> State:
    others = {"model.embed_tokens.weight": torch.zeros(2, 2)}
    return {PREFIX + name: tensor for name, tensor in state.items()} | others


def transformers(state: State) -> State:
    return dict(state)


def publisher(state: State) -> State:
    """facebookresearch/dinov2's names, with queries, keys and values in one projection."""
    named = {
        "cls_token": state["embeddings.cls_token"],
        "mask_token": state["embeddings.mask_token"],
        "pos_embed": state["embeddings.position_embeddings"],
        "patch_embed.proj.weight": state["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": state["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": state["layernorm.weight"],
        "norm.bias": state["layernorm.bias"],
    }
    for layer in range(3):
        old, new = f"encoder.layer.{layer}", f"blocks.{layer}"
        for kind in ("weight", "bias"):
            named[f"{new}.attn.qkv.{kind}"] = torch.cat(
                [state[f"{old}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            )
            for theirs, ours in (
                ("attn.proj", "attention.output.dense"),
                ("mlp.w12", "mlp.weights_in"),
                ("mlp.w3", "mlp.weights_out"),
                ("norm1", "norm1"),
                ("norm2", "norm2"),
            ):
                named[f"{new}.{theirs}.{kind}"] = state[f"{old}.{ours}.{kind}"]
        for scale in (1, 2):
            named[f"{new}.ls{scale}.gamma"] = state[f"{old}.layer_scale{scale}.lambda1"]
    return named


def pickled(state: State, folder: Path) -> None:
    torch.save(state, folder / "dinov2_pretrain.pth")


LAYOUTS: dict[str, Callable[[State], State]] = {
    "released": released,
    "transformers": transformers,
    "publisher": publisher,
}


@pytest.fixture(scope="module")
def weights() -> State:
    return load_file(DATA / "reference_weights.safetensors")


@pytest.fixture(scope="module")
def reference() -> State:
    return load_file(DATA / "reference_io.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that states the sizes of the reference."""
    Dinov2Config(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        use_swiglu_ffn=True,
    ).save_pretrained(tmp_path)
    return tmp_path


def load(source: Path, dtype: torch.dtype = torch.float32) -> Dinov2Expert:
    return Dinov2Expert.from_pretrained(str(source), dtype=dtype, device=CPU).eval()


@pytest.fixture
def expert(weights: State, folder: Path) -> Dinov2Expert:
    one_file(released(weights), folder)
    return load(folder)


# Numbers of the release


@pytest.mark.parametrize("picture", PICTURES)
@torch.no_grad()
def test_features_are_those_of_the_release(expert: Dinov2Expert, reference: State, picture: str) -> None:
    features = expert(reference[f"in.{picture}"])
    expected = reference[f"out.{picture}.hidden2"][:, 1:]  # [1, n, c]
    torch.testing.assert_close(features.tokens, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("picture", PICTURES)
@torch.no_grad()
def test_positions_are_resized_as_in_the_release(
    expert: Dinov2Expert, reference: State, picture: str
) -> None:
    height, width = reference[f"in.{picture}"].shape[-2:]
    expected = reference[f"out.{picture}.pos"]  # [1, t, c]
    positions = expert.encoder.embeddings.interpolate_pos_encoding(expected, height, width)
    torch.testing.assert_close(positions, expected, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_a_larger_picture_is_shrunk_without_antialiasing() -> None:
    expert = Dinov2Expert.from_config(largest=42, input_side=84).eval()
    stream = torch.randn(2, 3, 84, 84)
    features = expert(stream)
    assert features.grid == (3, 3)
    # bilinear at half the size without antialiasing is the mean of 2x2 pixels; with it, of more
    torch.testing.assert_close(features.tokens, expert(F.avg_pool2d(stream, 2)).tokens)


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
    card = usable_expert("dinov2").card
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
        prepared = stream_tensor([made_picture(name)], stream)[0]  # [3, h, w]
        pixels = (
            prepared * torch.tensor(stream.std)[:, None, None] + torch.tensor(stream.mean)[:, None, None]
        ) * 255
        expected = np.asarray(Image.open(DATA / f"stream_672_{name}.png"))  # [h, w, 3]
        assert np.array_equal(pixels.round().permute(1, 2, 0).numpy(), expected)


# Loading


@pytest.mark.parametrize(
    ("layout", "write"),
    [
        ("released", sharded),
        ("transformers", one_file),
        ("transformers", pickled),
        ("publisher", one_file),
        ("publisher", pickled),
    ],
)
@torch.no_grad()
def test_every_layout_gives_the_same_features(
    layout: str,
    write: Callable[[State, Path], None],
    weights: State,
    reference: State,
    folder: Path,
) -> None:
    write(LAYOUTS[layout](weights), folder)
    features = load(folder)(reference["in.up84"])
    expected = reference["out.up84.hidden2"][:, 1:]
    torch.testing.assert_close(features.tokens, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda state, name: state.pop(name), "1 missing .*encoder.layer.1.norm1.weight"),
        (lambda state, name: state.update({f"{name}_too": torch.zeros(1)}), "1 surplus .*norm1.weight_too"),
        (
            lambda state, name: state.update({name: torch.zeros(31)}),
            r"1 of another shape .*norm1.weight \(31,\) instead of \(32,\)",
        ),
    ],
    ids=["missing", "surplus", "shape"],
)
def test_weights_that_do_not_fit_are_named(
    layout: str, spoil: Callable[[State, str], object], said: str, weights: State, folder: Path
) -> None:
    state = LAYOUTS[layout](weights)
    spoil(state, next(name for name in state if name.endswith(".1.norm1.weight")))
    one_file(state, folder)
    with pytest.raises(ExpertLoadError, match=said):
        load(folder)


def test_an_unknown_layout_is_refused(folder: Path) -> None:
    one_file({"blocks.0.mlp.fc1.weight": torch.zeros(1)}, folder)
    with pytest.raises(ExpertLoadError, match="in no layout"):
        load(folder)


@torch.no_grad()
def test_what_is_never_used_may_be_absent(weights: State, reference: State, folder: Path) -> None:
    unused = ("embeddings.mask_token", "encoder.layer.2.", "layernorm.")
    one_file({name: tensor for name, tensor in weights.items() if not name.startswith(unused)}, folder)
    expected = reference["out.same56.hidden2"][:, 1:]
    torch.testing.assert_close(load(folder)(reference["in.same56"]).tokens, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_is_honoured(dtype: torch.dtype, weights: State, folder: Path) -> None:
    one_file(publisher(weights), folder)
    assert {parameter.dtype for parameter in load(folder, dtype).parameters()} == {dtype}


def test_loaded_weights_can_be_saved_again(expert: Dinov2Expert, tmp_path: Path) -> None:
    save_file(expert.state_dict(), tmp_path / "again.safetensors")  # refuses tensors that share memory


@pytest.mark.parametrize("text", ["{", '{"model_type": "dinov2", "hidden_size": "wide"}'])
def test_a_broken_configuration_is_named(text: str, weights: State, tmp_path: Path) -> None:
    one_file(weights, tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ExpertLoadError, match=r"config\.json"):
        load(tmp_path)


def test_another_models_configuration_leaves_the_released_sizes(weights: State, tmp_path: Path) -> None:
    one_file(released(weights), tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mova_llama", "hidden_size": 32}')
    with pytest.raises(ExpertLoadError, match=r"cls_token \(1, 1, 32\) instead of \(1, 1, 1536\)"):
        load(tmp_path)


def test_a_size_that_does_not_exist_is_named() -> None:
    with pytest.raises(TypeError, match="not depth"):
        Dinov2Expert.from_config(depth=3)
