"""SAM's image encoder: the promises of every expert, numbers of the released code, each layout of weights.

`data/c1_sam_*` and `data/f_*` were recorded from the released MoVA code: features at a small size with random
weights in float32, and what its image processor gives.

Notation for tensor shapes:
    h, w: picture in pixels
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import SamConfig, SamModel, SamVisionModel

import mova_expert_sam.expert
from mova_core.cards.card import ExpertCard
from mova_core.cards.resolve import usable_expert
from mova_core.errors import ExpertLoadError
from mova_core.experts.streams import stream_tensor
from mova_core.testing import ExpertConformance
from mova_core.testing.files import one_file, sharded
from mova_expert_sam.encoder import RELEASED, encoder_config, encoder_config_of
from mova_expert_sam.expert import STREAM, SamExpert

DATA = Path(__file__).parent / "data"
CPU = torch.device("cpu")
TOLERANCE = 2e-5
SIZES = {
    "image_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "output_channels": 16,
}
RELEASE_PREFIX = "model.vision_tower.vision_tower_7."

State = dict[str, Tensor]


class TestSam(ExpertConformance):
    expert = "sam"
    full = RELEASED
    preprocessing = DATA / "preprocessing.safetensors"

    def test_memory_is_that_of_the_parameters(self, card: ExpertCard) -> None:
        for dtype, size in (("float32", 4), ("bfloat16", 2)):
            assert card.memory_mb[dtype] == pytest.approx(card.parameters * size / 2**20, abs=0.1)


# Weights of the reference, as each publisher names them


def released(state: State) -> State:
    others = {"model.embed_tokens.weight": torch.zeros(2, 2)}
    return {RELEASE_PREFIX + name: tensor for name, tensor in state.items()} | others


def segment_anything(state: State) -> State:
    others = {
        "mask_decoder.iou_token.weight": torch.ones(1, 2),
        "prompt_encoder.no_mask_embed.weight": torch.ones(1, 2),
    }
    return {f"image_encoder.{name}": tensor for name, tensor in state.items()} | others


def pickled(state: State, folder: Path) -> Path:
    torch.save(state, folder / "sam_vit_h_4b8939.pth")
    return folder / "sam_vit_h_4b8939.pth"


@pytest.fixture(scope="module")
def weights() -> State:
    return load_file(DATA / "c1_sam_weights.safetensors")


@pytest.fixture(scope="module")
def reference() -> State:
    return load_file(DATA / "c1_sam_io.safetensors")


@pytest.fixture
def small_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of the reference's sizes: files without a configuration are read at the released sizes."""
    monkeypatch.setattr(mova_expert_sam.expert, "RELEASED", SIZES)


def load(source: Path, dtype: torch.dtype = torch.float32) -> SamExpert:
    return SamExpert.from_pretrained(str(source), dtype=dtype, device=CPU).eval()


@torch.no_grad()
def tokens(expert: SamExpert, stream: Tensor) -> Tensor:
    return expert(stream).tokens


# Numbers


@pytest.mark.usefixtures("small_release")
@pytest.mark.parametrize("write", [one_file, pickled, sharded])
@pytest.mark.parametrize("layout", [released, segment_anything])
def test_features_are_those_of_the_release(
    layout: Callable[[State], State],
    write: Callable[[State, Path], Path],
    weights: State,
    reference: State,
    tmp_path: Path,
) -> None:
    expert = load(write(layout(weights), tmp_path))
    with torch.no_grad():
        features = expert(reference["in.x"])
    assert features.grid == (8, 8)
    torch.testing.assert_close(features.tokens, reference["out.x"], rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("small_release")
def test_hidden_states_are_those_of_the_release(weights: State, reference: State, tmp_path: Path) -> None:
    expert = load(one_file(released(weights), tmp_path))
    seen: dict[str, Tensor] = {}
    for number in (0, 1):
        expert.encoder.layers[number].register_forward_hook(
            lambda _, __, output, number=number: seen.update({f"mid.x.block{number}": output})
        )
    seen["mid.x.neck"] = tokens(expert, reference["in.x"]).transpose(1, 2).unflatten(2, (8, 8))
    for name, tensor in seen.items():
        torch.testing.assert_close(tensor, reference[name], rtol=0, atol=TOLERANCE)


def test_the_published_sizes_are_those_of_the_card() -> None:
    card = usable_expert("sam").card
    assert card is not None
    side = encoder_config(**RELEASED).image_size // encoder_config(**RELEASED).patch_size
    assert (card.features.channels, card.features.grid) == (RELEASED["output_channels"], (side, side))


# transformers' own models, saved by transformers


def sam_config() -> SamConfig:
    return SamConfig(
        vision_config=encoder_config(**SIZES).to_dict(),
        prompt_encoder_config={"hidden_size": 16, "image_size": 128, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 16,
            "iou_head_hidden_dim": 8,
            "num_attention_heads": 2,
        },
    )


@pytest.mark.parametrize("whole", [True, False])
def test_transformers_models_load_at_the_sizes_they_state(
    whole: bool, reference: State, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = (SamModel(sam_config()) if whole else SamVisionModel(encoder_config(**SIZES))).eval()
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = theirs.vision_encoder(reference["in.x"]).last_hidden_state
    expert = load(tmp_path)
    assert expert.stream == STREAM.model_copy(update={"size": (128, 128)})
    torch.testing.assert_close(tokens(expert, reference["in.x"]), expected.flatten(2).transpose(1, 2))


def test_a_configuration_of_another_model_says_nothing_of_the_encoder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mova_llama", "hidden_size": 4096}))
    assert encoder_config_of(str(tmp_path)) is None


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"model_type": "sam", "vision_config": {"hidden_size": "wide"}}']
)
def test_a_broken_configuration_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ExpertLoadError, match="config.json"):
        encoder_config_of(str(tmp_path))


def test_a_size_of_no_meaning_is_refused() -> None:
    with pytest.raises(TypeError, match="depth"):
        SamExpert.from_config(depth=3)


# Files that do not fit


@pytest.mark.usefixtures("small_release")
@pytest.mark.parametrize(
    ("name", "tensor", "complaint"),
    [
        ("blocks.1.attn.rel_pos_h", None, "1 missing (encoder.layers.1.attn.rel_pos_h)"),
        ("blocks.1.attn.rel_pos_h", torch.ones(9, 16), "(9, 16) instead of (15, 16)"),
        ("blocks.3.norm1.weight", torch.ones(32), "1 surplus (encoder.layers.3.layer_norm1.weight)"),
        ("net_2.weight", torch.ones(2, 2), "1 surplus (net_2.weight)"),
    ],
)
def test_what_does_not_fit_is_listed(
    name: str, tensor: Tensor | None, complaint: str, weights: State, tmp_path: Path
) -> None:
    changed = (
        weights | {name: tensor} if tensor is not None else {k: v for k, v in weights.items() if k != name}
    )
    with pytest.raises(ExpertLoadError) as caught:
        load(one_file(released(changed), tmp_path))
    assert complaint in str(caught.value)


@pytest.mark.usefixtures("small_release")
def test_names_of_no_publisher_are_refused(weights: State, tmp_path: Path) -> None:
    with pytest.raises(ExpertLoadError, match="in no layout"):
        load(one_file(weights, tmp_path))


@pytest.mark.usefixtures("small_release")
def test_the_dtype_asked_for_is_given(weights: State, reference: State, tmp_path: Path) -> None:
    expert = load(one_file(released(weights), tmp_path), torch.bfloat16)
    assert {parameter.dtype for parameter in expert.parameters()} == {torch.bfloat16}
    half = tokens(expert, reference["in.x"].bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - reference["out.x"]).abs().mean() < 0.05


# Preprocessing


def gradient(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    shades = (
        x * 255 // max(width - 1, 1),
        y * 255 // max(height - 1, 1),
        (x + y) * 255 // max(width + height - 2, 1),
    )
    return Image.fromarray(np.stack(shades, axis=2).astype(np.uint8))


def checker(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    field = (x // 13 + y // 7) % 2 * 255
    return Image.fromarray(np.stack([field, 255 - field, (x * 3 + y * 5) % 256], axis=2).astype(np.uint8))


PICTURES = {"gradient_123x457": gradient(123, 457), "checker_640x333": checker(640, 333)}


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_that_of_the_release(name: str, card: ExpertCard) -> None:
    expected = torch.from_numpy(np.array(Image.open(DATA / f"f_full_high_{name}.png"))).permute(
        2, 0, 1
    )  # [3, h, w]
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.input.mean, card.input.std))
    given = stream_tensor([PICTURES[name]], card.input)[0]  # [3, h, w]
    assert torch.equal(((given * std + mean) * 255).round().to(torch.uint8), expected)


@pytest.mark.parametrize("name", PICTURES)
def test_the_tensor_is_that_of_the_release(name: str, card: ExpertCard) -> None:
    expected = load_file(DATA / "f_small_high.safetensors")[f"pad.{name}"]
    given = stream_tensor([PICTURES[name]], card.input.model_copy(update={"size": (128, 128)}))[0]
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)


@pytest.fixture
def card() -> ExpertCard:
    found = usable_expert("sam").card
    assert found is not None
    return found
