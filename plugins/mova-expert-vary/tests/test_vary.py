"""Vary's vision vocabulary: promises of every expert, numbers of the released code, each layout of weights.

`data/c2_vary_*` was recorded from the released MoVA code: features at a small size with random weights in
float32. Its picture is the one that `mova-expert-sam` holds against the release.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GotOcr2Config, GotOcr2ForConditionalGeneration

import mova_expert_vary.expert
from mova_core.cards.card import ExpertCard
from mova_core.cards.resolve import usable_expert
from mova_core.errors import ExpertLoadError
from mova_core.testing import ExpertConformance
from mova_core.testing.files import one_file, sharded
from mova_expert_vary.expert import RELEASED, STREAM, VaryExpert

DATA = Path(__file__).parent / "data"
CPU = torch.device("cpu")
TOLERANCE = 2e-5
SIZES = {
    "image_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "output_channels": 16,
}

State = dict[str, Tensor]


class TestVary(ExpertConformance):
    expert = "vary"
    full = RELEASED
    preprocessing = DATA / "preprocessing.safetensors"

    def test_memory_is_that_of_the_parameters(self, card: ExpertCard) -> None:
        for dtype, size in (("float32", 4), ("bfloat16", 2)):
            assert card.memory_mb[dtype] == pytest.approx(card.parameters * size / 2**20, abs=0.1)

    def test_it_shares_its_picture_with_the_encoder_it_is_built_on(self, card: ExpertCard) -> None:
        other = usable_expert("sam").card
        assert other is not None and card.input == other.input

    def test_whoever_loads_it_is_told_of_the_licence(self, card: ExpertCard) -> None:
        assert card.weights.notice is not None and "research use only" in card.weights.notice


# Weights of the reference, as each publisher names them


def released(state: State) -> State:
    others = {"model.vision_tower.vision_tower_7.blocks.0.norm1.weight": torch.ones(4)}
    return {f"model.vision_tower.vision_tower_2.{name}": tensor for name, tensor in state.items()} | others


def published(prefix: str, state: State) -> State:
    """With the second convolution, and a language model beside it."""
    whole = state | {"net_3.weight": torch.ones(64, 32, 3, 3)}
    others = {"lm_head.weight": torch.ones(2, 2), "transformer.vision_tower.vision_model.x": torch.ones(2)}
    return {prefix + name: tensor for name, tensor in whole.items()} | others


LAYOUTS: dict[str, Callable[[State], State]] = {
    "released": released,
    "qwen": partial(published, "transformer.vision_tower_high."),
    "other": partial(published, "model.vision_tower_high."),
    "opt": partial(published, "model.vision_tower."),
}


pickled_shards = partial(sharded, pickled=True)


def pickled(state: State, folder: Path) -> Path:
    torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def weights() -> State:
    return load_file(DATA / "c2_vary_weights.safetensors")


@pytest.fixture(scope="module")
def reference() -> State:
    return load_file(DATA / "c2_vary_io.safetensors")


@pytest.fixture
def small_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of the reference's sizes: files without a configuration are read at the released sizes."""
    monkeypatch.setattr(mova_expert_vary.expert, "RELEASED", SIZES)


def load(source: Path, dtype: torch.dtype = torch.float32) -> VaryExpert:
    return VaryExpert.from_pretrained(str(source), dtype=dtype, device=CPU).eval()


# Numbers


@pytest.mark.usefixtures("small_release")
@pytest.mark.parametrize("write", [one_file, pickled, pickled_shards])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_are_those_of_the_release(
    layout: str, write: Callable[[State, Path], Path], weights: State, reference: State, tmp_path: Path
) -> None:
    expert = load(write(LAYOUTS[layout](weights), tmp_path))
    with torch.no_grad():
        features = expert(reference["in.x"])
        neck = expert.encoder(reference["in.x"]).last_hidden_state
    assert features.grid == (4, 4)
    torch.testing.assert_close(features.tokens, reference["out.x"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(neck, reference["mid.x.neck"], rtol=0, atol=TOLERANCE)


# transformers' own model with this encoder, saved by transformers


def got_ocr() -> GotOcr2ForConditionalGeneration:
    torch.manual_seed(0)
    text = {"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32, "pad_token_id": 0}
    vision = SIZES | {"num_attention_heads": 2, "window_size": 3, "global_attn_indexes": [1], "mlp_dim": 128}
    return GotOcr2ForConditionalGeneration(
        GotOcr2Config(vision_config=vision, text_config=text | heads, image_token_index=1)
    ).eval()


@pytest.mark.parametrize("rooted", [True, False])
def test_got_ocr_loads_at_the_sizes_it_states(rooted: bool, reference: State, tmp_path: Path) -> None:
    theirs = got_ocr()
    theirs.config.save_pretrained(tmp_path)
    state = {name: tensor.contiguous() for name, tensor in theirs.model.state_dict().items()}
    one_file({f"model.{n}": t for n, t in state.items()} if rooted else state, tmp_path)
    with torch.no_grad():
        picture = theirs.model.vision_tower(reference["in.x"]).last_hidden_state
        expected = theirs.model.multi_modal_projector.conv_upsampler1(picture)
        expert = load(tmp_path)
        given = expert(reference["in.x"]).tokens
    assert expert.stream == STREAM.model_copy(update={"size": (128, 128)})
    torch.testing.assert_close(given, expected.flatten(2).transpose(1, 2), rtol=0, atol=TOLERANCE)


def test_got_ocr_loads_as_transformers_saves_it(tmp_path: Path) -> None:
    got_ocr().save_pretrained(tmp_path)
    assert load(tmp_path).reduce.weight.shape == (32, 16, 3, 3)


# Files that do not fit


@pytest.mark.usefixtures("small_release")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "tensor", "complaint"),
    [
        ("net_2.weight", None, "1 missing (reduce.weight)"),
        ("net_2.weight", torch.ones(8, 16, 3, 3), "(8, 16, 3, 3) instead of (32, 16, 3, 3)"),
        ("net_4.weight", torch.ones(2), "1 surplus (net_4.weight)"),
    ],
)
def test_what_does_not_fit_is_listed(
    layout: str, name: str, tensor: Tensor | None, complaint: str, weights: State, tmp_path: Path
) -> None:
    changed = {known: value for known, value in weights.items() if known != name}
    if tensor is not None:
        changed[name] = tensor
    with pytest.raises(ExpertLoadError) as caught:
        load(one_file(LAYOUTS[layout](changed), tmp_path))
    assert complaint in str(caught.value)


@pytest.mark.usefixtures("small_release")
def test_the_second_convolution_is_said_to_be_unused(
    weights: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="mova_core.experts.layouts"):
        load(one_file(LAYOUTS["qwen"](weights), tmp_path))
    assert "net_3.weight" in caplog.text


@pytest.mark.usefixtures("small_release")
def test_the_dtype_asked_for_is_given(weights: State, tmp_path: Path) -> None:
    expert = load(one_file(released(weights), tmp_path), torch.bfloat16)
    assert {parameter.dtype for parameter in expert.parameters()} == {torch.bfloat16}


def test_a_size_of_no_meaning_is_refused() -> None:
    with pytest.raises(TypeError, match="depth"):
        VaryExpert.from_config(depth=3)
