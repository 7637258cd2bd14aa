"""BiomedCLIP: the promises of every expert, numbers of the released code, and each layout of weights.

`data/reference_*` were recorded from the released MoVA code at a small size, with random weights in float32.

Notation for tensor shapes:
    n: patch tokens, c: channels
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mova_core.cards.card import ExpertCard
from mova_core.cards.resolve import usable_expert
from mova_core.errors import ExpertLoadError
from mova_core.testing import ExpertConformance
from mova_core.testing.files import one_file, sharded
from mova_expert_biomedclip.expert import RELEASED, BiomedClipExpert

DATA = Path(__file__).parent / "data"
CPU = torch.device("cpu")
SIZES = {"width": 48, "layers": 2, "heads": 3, "input_side": 168}

State = dict[str, Tensor]


class TestBiomedClip(ExpertConformance):
    expert = "biomedclip"
    full = RELEASED
    preprocessing = DATA / "preprocessing.safetensors"

    def test_its_own_stream_is_that_of_the_card(self, card: ExpertCard) -> None:
        with torch.device("meta"):
            assert BiomedClipExpert.from_config(**RELEASED).stream == card.input

    def test_it_shares_the_tensor_of_the_base_encoder(self, card: ExpertCard) -> None:
        base = usable_expert("clip").card
        assert base is not None and base.input == card.input

    def test_memory_is_that_of_the_parameters(self, card: ExpertCard) -> None:
        for dtype, size in (("float32", 4), ("bfloat16", 2)):
            assert card.memory_mb[dtype] == pytest.approx(card.parameters * size / 2**20, abs=0.1)


# Weights: those of the reference, as each publisher names them


def released(state: State) -> State:
    others = {"model.embed_tokens.weight": torch.zeros(2, 2)}
    return {f"model.vision_tower.vision_tower_6.{name}": tensor for name, tensor in state.items()} | others


def open_clip(state: State) -> State:
    """open_clip's whole model, with its text tower."""
    others = {"text.proj.0.weight": torch.zeros(2, 2), "logit_scale": torch.tensor(1.0)}
    return {f"visual.{name}": tensor for name, tensor in state.items()} | others


def timm(state: State) -> State:
    """A classifier on the same trunk."""
    trunk = {
        name.removeprefix("trunk."): tensor for name, tensor in state.items() if name.startswith("trunk.")
    }
    return trunk | {"head.weight": torch.zeros(10, 48), "head.bias": torch.zeros(10)}


def pickled(state: State, folder: Path) -> None:
    torch.save(state, folder / "open_clip_pytorch_model.bin")


LAYOUTS: dict[str, Callable[[State], State]] = {"released": released, "open_clip": open_clip, "timm": timm}


@pytest.fixture(scope="module")
def weights() -> State:
    """Of the reference, by the released names inside the tower."""
    return load_file(DATA / "reference_weights.safetensors")


def load(source: Path, dtype: torch.dtype = torch.float32, **sizes: int) -> BiomedClipExpert:
    return BiomedClipExpert.from_pretrained(str(source), dtype=dtype, device=CPU, **(sizes or SIZES)).eval()


# Numbers of the release


@pytest.mark.parametrize(
    ("layout", "write"),
    [
        ("released", one_file),
        ("released", sharded),
        ("open_clip", one_file),
        ("open_clip", pickled),
        ("timm", one_file),
        ("timm", pickled),
    ],
)
@torch.no_grad()
def test_features_are_those_of_the_release_from_every_layout(
    layout: str, write: Callable[[State, Path], None], weights: State, tmp_path: Path
) -> None:
    reference = load_file(DATA / "reference_io.safetensors")
    write(LAYOUTS[layout](weights), tmp_path)
    features = load(tmp_path)(reference["in.clip_image"])
    assert features.grid == (14, 14)
    expected = reference["out.expert_feature"]  # [1, n, c]
    torch.testing.assert_close(features.tokens, expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_pictures_are_shrunk_without_antialiasing() -> None:
    expert = BiomedClipExpert.from_config(side=32, input_side=96).eval()
    stream = torch.randn(2, 3, 96, 96)
    # a third of the size, as from 672 to 224: bilinear without antialiasing takes the middle of 3x3 pixels
    middle = stream[:, :, 1::3, 1::3]
    torch.testing.assert_close(expert(stream).tokens, expert(middle).tokens)


# Loading what does not fit


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda state, name: state.pop(name), "1 missing .*blocks.1.norm2.bias"),
        (lambda state, name: state.update({f"{name}_too": torch.zeros(1)}), "1 surplus .*norm2.bias_too"),
        (
            lambda state, name: state.update({name: torch.zeros(47)}),
            r"1 of another shape .*blocks.1.norm2.bias \(47,\) instead of \(48,\)",
        ),
    ],
    ids=["missing", "surplus", "shape"],
)
def test_weights_that_do_not_fit_are_named(
    layout: str, spoil: Callable[[State, str], object], said: str, weights: State, tmp_path: Path
) -> None:
    state = LAYOUTS[layout](weights)
    spoil(state, next(name for name in state if name.endswith("blocks.1.norm2.bias")))
    one_file(state, tmp_path)
    with pytest.raises(ExpertLoadError, match=said):
        load(tmp_path)


def test_weights_of_another_size_are_refused(weights: State, tmp_path: Path) -> None:
    one_file(open_clip(weights), tmp_path)
    with pytest.raises(
        ExpertLoadError, match=r"120 missing .*30 of another shape .*\(48,\) instead of \(768,\)"
    ):
        load(tmp_path, **RELEASED)


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    one_file({"visual.conv1.weight": torch.zeros(1)}, tmp_path)
    with pytest.raises(ExpertLoadError, match="in no layout"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_is_honoured(dtype: torch.dtype, weights: State, tmp_path: Path) -> None:
    one_file(open_clip(weights), tmp_path)
    assert {parameter.dtype for parameter in load(tmp_path, dtype).parameters()} == {dtype}


def test_a_size_that_does_not_exist_is_named() -> None:
    with pytest.raises(TypeError, match="no depth"):
        BiomedClipExpert.from_config(depth=3)
