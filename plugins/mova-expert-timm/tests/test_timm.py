"""Experts from timm models: features against timm's own, loading, sizes, and cards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import create_transform
from timm.models import save_for_hf
from torch import Tensor, nn

from mova_core.cards.card import ExpertCard
from mova_core.cards.manifest import read_expert_card
from mova_core.cards.user_cards import write_user_card
from mova_core.errors import CardError, ExpertLoadError, ExpertRunError
from mova_core.experts.loading import load_expert
from mova_core.hookspecs import load_hooks
from mova_core.testing import ExpertConformance
from mova_core.testing.pictures import picture
from mova_expert_timm.cards import card, covers
from mova_expert_timm.documents import spdx
from mova_expert_timm.expert import TimmExpert
from mova_expert_timm.streams import pixel_stream

CPU = torch.device("cpu")
WORDS = (
    "Knows kinds of things and where they are. Does not read.",
    "Good for naming what stands in a part of the picture, bad for text.",
    "Sees objects and materials; charts and documents say little to it.",
    "Use it for photographs of everyday scenes, not for screens or scans.",
)
VIT = {"embed_dim": 24, "depth": 2, "num_heads": 2}
MODELS: Mapping[str, tuple[str, Mapping[str, Any], int]] = {
    "class token": ("test_vit", {}, 10),
    "registers": ("vit_tiny_patch16_224", {**VIT, "img_size": 64, "reg_tokens": 4}, 4),
    "two tokens": ("deit_tiny_distilled_patch16_224", VIT, 14),
    "no such token": ("vit_base_patch16_siglip_224", VIT, 14),
    "rotary positions": ("vit_small_patch16_rope_224", VIT, 14),
    "a map": ("test_convnext", {}, 5),
    "a map after a wider convolution": ("test_efficientnet", {}, 5),
    "a map with channels last": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
        7,
    ),
    "a map with channels last, no attention": ("test_mambaout", {}, 5),
}
"""By what their features look like: a model, arguments that make it small, and the side of its grid."""


@pytest.fixture(scope="module", autouse=True)
def card_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's card directory, with one card in it."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("cards")
    patch.setenv("MOVA_CARD_DIR", str(folder))
    weights = _saved("test_vit", {}, tmp_path_factory.mktemp("weights"))[1]
    write_user_card(
        card(str(weights), id="tiny-vit", descriptions=WORDS, example_questions=["What stands there?"])
    )
    yield folder
    patch.undo()


class TestConformance(ExpertConformance):
    expert = "tiny-vit"
    tiny = {"architecture": "test_vit"}
    full = {"architecture": "test_vit"}


def _saved(name: str, arguments: Mapping[str, Any], folder: Path, **form: Any) -> tuple[nn.Module, Path]:
    """A small model with random weights, and the folder that timm wrote of it."""
    torch.manual_seed(5)
    model = timm.create_model(name, num_classes=3, **arguments).eval()
    save_for_hf(model, folder, **{"safe_serialization": True, **form})
    return model, folder


def _load(folder: Path, dtype: torch.dtype = torch.float32) -> TimmExpert:
    return TimmExpert.from_pretrained(str(folder), dtype=dtype, device=CPU)


def _pixels(expert: TimmExpert) -> Tensor:
    return expert.preprocess([picture(96, 64), picture(64, 96, 1)])


def _cells(output: Tensor, side: int, *, channels_last: bool) -> Tensor:
    """[b, n, c] of what timm gives, read without the code under test."""
    if output.dim() == 3:
        return output[:, -side * side :]
    return (output if channels_last else output.permute(0, 2, 3, 1)).reshape(output.shape[0], side * side, -1)


# Features


@pytest.mark.parametrize("kind", MODELS)
def test_features_are_timms_own(kind: str, tmp_path: Path) -> None:
    name, arguments, side = MODELS[kind]
    model, folder = _saved(name, arguments, tmp_path)
    expert = _load(folder)
    pixels = _pixels(expert)
    with torch.no_grad():
        features, own = expert(pixels), model.forward_features(pixels)
    assert features.grid == (side, side)
    expected = _cells(own, side, channels_last="channels last" in kind)
    torch.testing.assert_close(features.tokens, expected, rtol=0, atol=1e-6)
    made = card(str(folder), descriptions=WORDS)
    assert made["features"] == {"channels": features.channels, "grid": [side, side]}
    assert made["expert"]["parameters"] == sum(p.numel() for p in expert.parameters())
    unused = ("head.weight", "head.fc.weight", "classifier.weight", "attn_pool.latent")
    assert not any(name.endswith(unused) and "conv_head" not in name for name in expert.state_dict())


@pytest.mark.parametrize(
    ("name", "says"),
    [("coat_tiny", "list"), ("pit_ti_224", "1 tokens; expected 7x7")],
)
def test_models_without_a_single_map_are_refused(name: str, says: str) -> None:
    with pytest.raises(ExpertRunError, match=says):
        card(f"timm:{name}", descriptions=WORDS)


def test_a_class_token_that_timm_does_not_announce_is_found() -> None:
    torch.manual_seed(5)
    model = timm.create_model("volo_d1_224").eval()
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        own = model.forward_features(pixels)
        features = TimmExpert.around(model)(pixels)
    assert features.grid == (14, 14) and own.shape[1] == 197
    assert torch.equal(features.tokens, own[:, 1:])


# Pictures


@pytest.mark.parametrize(("kind", "side"), [("class token", 6), ("a map with channels last", 3)])
def test_a_card_may_ask_for_another_size(kind: str, side: int, tmp_path: Path) -> None:
    name, arguments, _ = MODELS[kind]
    model, folder = _saved(name, arguments, tmp_path)
    made = read_expert_card(
        write_user_card(card(str(folder), id="resized", descriptions=WORDS, size=(96, 96)), force=True)
    )
    expert = load_expert(made, device=CPU, dtype=torch.float32)
    assert isinstance(expert, TimmExpert) and made.features.grid == (side, side)
    model.set_input_size(img_size=(96, 96))
    pixels = _pixels(expert)
    with torch.no_grad():
        features, own = expert(pixels), model.forward_features(pixels)
    expected = _cells(own, side, channels_last=own.dim() == 4)
    torch.testing.assert_close(features.tokens, expected, rtol=0, atol=1e-6)
    assert sum(p.numel() for p in expert.parameters()) == made.parameters


def test_a_size_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(
        ExpertLoadError, match=r"one size only; got size \[96, 96\]; expected size \[224, 224\]"
    ):
        card("timm:volo_d1_224", descriptions=WORDS, size=(96, 96))


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_a_crop_is_timms_own_evaluation(name: str) -> None:
    made = ExpertCard.model_validate(_flat(card(f"timm:{name}", descriptions=WORDS, fit="crop")))
    expert = TimmExpert.from_config(architecture=name).bind(made)
    stated = expert.encoder.pretrained_cfg
    evaluation = create_transform(
        stated["input_size"],
        interpolation=stated["interpolation"],
        mean=stated["mean"],
        std=stated["std"],
        crop_pct=stated["crop_pct"],
    )
    image = picture(320, 160)  # an even number of pixels is cut from each side: no rounding
    torch.testing.assert_close(expert.preprocess([image])[0], evaluation(image), rtol=0, atol=1e-5)


def test_a_padded_picture_is_seen_whole() -> None:
    expert = TimmExpert.from_config(architecture="test_vit")
    assert expert.stream.fit == "pad" and expert.stream.pad_colour == (127, 127, 127)


def test_an_unknown_filter_is_refused() -> None:
    with pytest.raises(ExpertLoadError, match="interpolation 'hamming'"):
        pixel_stream((8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), interpolation="hamming")


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    return {**document["expert"], **{name: table for name, table in document.items() if name != "expert"}}


# Weights


@pytest.mark.parametrize("form", ["safetensors", "bin", "sharded"])
def test_every_form_gives_the_same_weights(form: str, tmp_path: Path) -> None:
    model, folder = _saved("test_vit", {}, tmp_path, safe_serialization=form != "bin")
    if form == "sharded":
        _shard(folder)
    state = _load(folder).encoder.state_dict()
    own = model.state_dict()
    assert own.keys() - state.keys() == {"head.weight", "head.bias"}
    assert all(torch.equal(state[name], own[name]) for name in state)


def _shard(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    where = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: state[name] for name in names if where[name] == file}, folder / file)
    index = ", ".join(f'"{name}": "{file}"' for name, file in where.items())
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{index}}}}}')


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("missing", r"1 missing \(blocks\.0\.mlp\.fc1\.weight\)"),
        ("surplus", r"1 surplus \(blocks\.99\.mlp\.fc1\.weight\)"),
        ("shape", r"of another shape \(norm\.weight \(3,\) instead of \(64,\)\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(wrong: str, says: str, tmp_path: Path) -> None:
    _, folder = _saved("test_vit", {}, tmp_path)
    state = load_file(folder / "model.safetensors")
    if wrong == "missing":
        del state["blocks.0.mlp.fc1.weight"]
    elif wrong == "surplus":
        state["blocks.99.mlp.fc1.weight"] = torch.zeros(2)
    else:
        state["norm.weight"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ExpertLoadError, match=says):
        _load(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_the_one_asked_for(dtype: torch.dtype, tmp_path: Path) -> None:
    _, folder = _saved("test_convnext", {}, tmp_path)
    expert = _load(folder, dtype)
    assert {parameter.dtype for parameter in expert.parameters()} == {dtype} and not expert.training


@pytest.mark.parametrize("text", [None, "{", '{"model_type": "vit"}', '{"architecture": "no_such"}'])
def test_a_folder_that_timm_did_not_describe_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ExpertLoadError):
        _load(tmp_path)


def test_a_model_of_other_pictures_is_refused(tmp_path: Path) -> None:
    _, folder = _saved("test_vit", {"in_chans": 4}, tmp_path)
    with pytest.raises(ExpertLoadError, match="no RGB pictures; got 4 channels"):
        _load(folder)


# Cards


def test_a_name_gives_the_card_of_its_published_weights() -> None:
    made = card("timm:vit_small_patch14_dinov2", descriptions=WORDS, title="Natural scenes")
    assert made["expert"]["id"] == "vit-small-patch14-dinov2" and made["expert"]["title"] == "Natural scenes"
    assert made["weights"]["sources"] == ["hf:timm/vit_small_patch14_dinov2.lvd142m"]
    assert made["weights"]["licence"] == "Apache-2.0" and made["weights"]["notice"] is None
    assert made["features"] == {"channels": 384, "grid": [37, 37]}
    assert made["expert"]["parameters"] == 22_056_192
    same = card("hf:timm/vit_small_patch14_dinov2.lvd142m", descriptions=WORDS, id="vit-small-patch14-dinov2")
    assert {**same, "expert": {**same["expert"], "title": "Natural scenes"}} == made


def test_a_repository_in_the_hubs_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--someone--net" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    _saved("test_convnext", {}, snapshot)
    made = card("hf:someone/net", descriptions=WORDS)
    assert made["weights"]["sources"] == ["hf:someone/net"] and made["expert"]["id"] == "net"
    with pytest.raises(ExpertLoadError, match=r"Run `hf download someone/other config\.json`"):
        card("hf:someone/other", descriptions=WORDS)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("timm:tets_vit", "expected test_vit"),
        ("timm:test_vit.no_such_tag", "cannot build"),
        ("timm:davit_base_fl", "publishes no weights"),
        ("/no/such/folder", "does not describe a timm model"),
    ],
)
def test_a_source_without_a_model_is_refused(source: str, says: str) -> None:
    with pytest.raises(ExpertLoadError, match=says):
        card(source, descriptions=WORDS)


def test_a_card_needs_words() -> None:
    with pytest.raises(CardError, match="descriptions"):
        card("timm:test_vit", descriptions=())


@pytest.mark.parametrize(
    ("stated", "licence"),
    [
        ("apache-2.0", "Apache-2.0"),
        ("cc-by-nc-4.0", "CC-BY-NC-4.0"),
        ("dinov3-license", "LicenseRef-dinov3-license"),
        (None, "LicenseRef-unstated"),
        ("unknown", "LicenseRef-unstated"),
    ],
)
def test_licences_are_spdx(stated: str | None, licence: str) -> None:
    assert spdx(stated) == licence


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("eva02_base_patch14_224", None),
        ("convnextv2_atto", "not for commercial use"),
        ("vit_small_patch16_dinov3", "of their own"),
    ],
)
def test_a_restricted_licence_is_said(name: str, says: str | None) -> None:
    notice = card(f"timm:{name}", descriptions=WORDS)["weights"]["notice"]
    assert notice is None if says is None else says in notice


def test_the_command_line_is_offered_cards(tmp_path: Path) -> None:
    words: dict[str, Any] = {"id": "a", "descriptions": WORDS, "example_questions": [], "title": None}
    made = load_hooks().card(source="timm:test_vit", **words)
    assert made == card("timm:test_vit", id="a", descriptions=WORDS)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert not covers(f"file:{tmp_path}") and not covers("hf:someone/unknown")
