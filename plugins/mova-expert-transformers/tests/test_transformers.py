"""Experts from transformers' vision models: features against its own, loading, pictures, and cards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mova_core.cards.manifest import read_expert_card
from mova_core.cards.user_cards import write_user_card
from mova_core.errors import ConfigError, ExpertLoadError, ExpertRunError
from mova_core.experts.loading import load_expert
from mova_core.hookspecs import load_hooks
from mova_core.testing import ExpertConformance
from mova_core.testing.pictures import picture
from mova_expert_transformers.cards import card, covers
from mova_expert_transformers.expert import TINY, PenultimateExpert, TransformersExpert
from mova_expert_transformers.reading import on_grid
from mova_expert_transformers.streams import processor_settings, processor_stream

CPU = torch.device("cpu")
WORDS = (
    "Knows kinds of things and where they are. Does not read.",
    "Good for naming what stands in a part of the picture, bad for text.",
    "Sees objects and materials; charts and documents say little to it.",
    "Use it for photographs of everyday scenes, not for screens or scans.",
)
PICTURES = {
    "image_mean": [0.5, 0.25, 0.5],
    "image_std": [0.5, 0.5, 0.25],
    "resample": 3,
    "size": {"height": 64, "width": 64},
}
VIT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 64,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 30,
}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
SWIN: dict[str, Any] = {
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "image_size": 64,
    "patch_size": 4,
    "window_size": 2,
}
NAFLEX = {**{name: value for name, value in VIT.items() if name != "image_size"}, "num_patches": 16}


class Case(NamedTuple):
    """A small model, the part of it that sees, and the side of its grid at 64 pixels."""

    make: Callable[[], Any]
    sees: Callable[[Any], Any] = lambda model: model
    side: int = 4


MODELS: Mapping[str, Case] = {
    "dinov2": Case(lambda: tf.Dinov2Model(tf.Dinov2Config(**VIT))),
    "dinov2 with registers": Case(lambda: tf.Dinov2WithRegistersModel(tf.Dinov2WithRegistersConfig(**VIT))),
    "dinov2 with a head": Case(
        lambda: tf.Dinov2ForImageClassification(tf.Dinov2Config(**VIT)), lambda model: model.dinov2
    ),
    "vit": Case(lambda: tf.ViTModel(tf.ViTConfig(**VIT))),
    "vit with a head": Case(
        lambda: tf.ViTForImageClassification(tf.ViTConfig(**VIT)), lambda model: model.vit
    ),
    "deit": Case(lambda: tf.DeiTModel(tf.DeiTConfig(**VIT))),
    "clip": Case(
        lambda: tf.CLIPModel(tf.CLIPConfig(vision_config=VIT, text_config=TEXT)),
        lambda model: model.vision_model,
    ),
    "clip's tower alone": Case(lambda: tf.CLIPVisionModel(tf.CLIPVisionConfig(**VIT))),
    "siglip": Case(
        lambda: tf.SiglipModel(tf.SiglipConfig(vision_config=VIT, text_config=TEXT)),
        lambda model: model.vision_model,
    ),
    "blip": Case(
        lambda: tf.BlipModel(tf.BlipConfig(vision_config=VIT, text_config=TEXT)),
        lambda model: model.vision_model,
    ),
    "llava": Case(
        lambda: tf.LlavaForConditionalGeneration(
            tf.LlavaConfig(vision_config=tf.CLIPVisionConfig(**VIT), text_config=tf.LlamaConfig(**TEXT))
        ),
        lambda model: model.model.vision_tower,
    ),
    "convnext": Case(lambda: tf.ConvNextModel(tf.ConvNextConfig(**STAGES)), side=2),
    "dinov3 convnext": Case(lambda: tf.DINOv3ConvNextModel(tf.DINOv3ConvNextConfig(**STAGES)), side=2),
    "swin": Case(lambda: tf.SwinModel(tf.SwinConfig(**SWIN)), side=2),
    "hiera": Case(
        lambda: tf.HieraModel(
            tf.HieraConfig(embed_dim=8, image_size=[64, 64], depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2])
        ),
        side=2,
    ),
}


@pytest.fixture(scope="module", autouse=True)
def card_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's card directory, with one card in it."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("cards")
    patch.setenv("MOVA_CARD_DIR", str(folder))
    weights = tmp_path_factory.mktemp("weights")
    entries = {name: value for name, value in TINY.items() if name != "model_type"}
    _save(tf.Dinov2Model(tf.Dinov2Config(**entries)), weights)
    write_user_card(
        card(str(weights), id="tiny-dino", descriptions=WORDS, example_questions=["What stands there?"])
    )
    yield folder
    patch.undo()


class TestConformance(ExpertConformance):
    expert = "tiny-dino"
    tiny = TINY
    full = TINY


def _save(model: Any, folder: Path, **form: Any) -> Path:
    model.save_pretrained(folder, **form)
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    return folder


def _saved(name: str, folder: Path) -> tuple[Any, Path]:
    """The part of a small model that sees, and the folder that transformers wrote of the whole model."""
    torch.manual_seed(5)
    case = MODELS[name]
    model = case.make().eval()
    for parameter in model.parameters():  # some start at zero, and would hide what comes before them
        torch.nn.init.normal_(parameter, std=0.2)
    _save(model, folder)
    return case.sees(model), folder


def _load(
    folder: Path, kind: type[TransformersExpert] = TransformersExpert, dtype: torch.dtype = torch.float32
) -> TransformersExpert:
    return kind.from_pretrained(str(folder), dtype=dtype, device=CPU)


def _pixels(expert: TransformersExpert) -> Tensor:
    return expert.preprocess([picture(96, 64), picture(64, 96, 1)])


def _cells(state: Tensor, side: int) -> Tensor:
    """[b, n, c] of a hidden state, read without the code under test."""
    return state[:, -side * side :] if state.dim() == 3 else state.flatten(2).transpose(1, 2)


# Features


@pytest.mark.parametrize("name", MODELS)
def test_features_are_transformers_own(name: str, tmp_path: Path) -> None:
    sees, folder = _saved(name, tmp_path)
    expert = _load(folder)
    pixels = _pixels(expert)
    with torch.no_grad():
        features, own = expert(pixels), sees(pixel_values=pixels).last_hidden_state
    side = MODELS[name].side
    assert features.grid == (side, side)
    torch.testing.assert_close(features.tokens, _cells(own, side), rtol=0, atol=1e-5)
    made = card(str(folder), descriptions=WORDS)
    assert made["features"] == {"channels": features.channels, "grid": [side, side]}
    assert made["expert"]["parameters"] == sum(p.numel() for p in expert.parameters())


@pytest.mark.parametrize(
    ("name", "side"), [("dinov2", 4), ("clip", 4), ("siglip", 4), ("convnext", 4), ("swin", 2)]
)
def test_the_state_before_the_last_layer(name: str, side: int, tmp_path: Path) -> None:
    sees, folder = _saved(name, tmp_path)
    made = read_expert_card(
        write_user_card(card(str(folder), id="penultimate", descriptions=WORDS, layer=-2), force=True)
    )
    expert = load_expert(made, device=CPU, dtype=torch.float32)
    assert isinstance(expert, PenultimateExpert) and made.features.grid == (side, side)
    pixels = _pixels(expert)
    with torch.no_grad():
        features, own = expert(pixels), sees(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(features.tokens, _cells(own, side), rtol=0, atol=1e-5)


def test_tokens_in_another_order_are_read_as_maps(tmp_path: Path) -> None:
    sees, folder = _saved("hiera", tmp_path)
    expert = _load(folder, PenultimateExpert)
    pixels = _pixels(expert)
    with torch.no_grad():
        features = expert(pixels)
        own = sees(pixel_values=pixels, output_hidden_states=True).reshaped_hidden_states[-2]
    assert features.grid == tuple(own.shape[1:3]) == (4, 4)  # with channels last
    torch.testing.assert_close(features.tokens, own.flatten(1, 2), rtol=0, atol=1e-5)


def test_a_map_with_channels_last_is_known_by_its_proportions() -> None:
    config = tf.ViTConfig()
    state = torch.randn(1, 2, 4, 5)  # rows, columns, channels
    features = on_grid(state, config, (32, 64))
    assert features.grid == (2, 4) and torch.equal(features.tokens, state.flatten(1, 2))
    features = on_grid(state.permute(0, 3, 1, 2), config, (32, 64))
    assert features.grid == (2, 4) and torch.equal(features.tokens, state.flatten(1, 2))


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (tf.DetrConfig(), 100),  # queries: as many as 10x10, and no grid
        (tf.ViTMAEConfig(patch_size=16), 101),  # a quarter of the patches, drawn at random
        (tf.ViTConfig(patch_size=16), 401 + 16),
        (tf.ViTConfig(patch_size=512), 1),
    ],
    ids=["queries", "masked", "too many", "patch larger than the picture"],
)
def test_tokens_that_fill_no_grid_are_refused(config: Any, tokens: int) -> None:
    with pytest.raises(ExpertRunError, match=f"{tokens} tokens of 320x320 pixels"):
        on_grid(torch.zeros(1, tokens, 8), config, (320, 320))


def test_siglip_2_is_given_patches(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = tf.Siglip2Model(tf.Siglip2Config(vision_config=NAFLEX, text_config=TEXT)).eval()
    folder = _save(model, tmp_path)
    settings = {name: value for name, value in PICTURES.items() if name != "size"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    expert = _load(folder)
    assert expert.stream.size == (64, 64)
    pixels = _pixels(expert)
    cut = torch.nn.functional.unfold(pixels, 16, stride=16)  # [b, 3 * p * p, n], channels first
    cut = cut.reshape(2, 3, 256, 16).permute(0, 3, 2, 1).flatten(2)  # [b, n, p * p * 3]
    with torch.no_grad():
        own = model.vision_model(
            pixel_values=cut,
            pixel_attention_mask=torch.ones(2, 16),
            spatial_shapes=torch.tensor([[4, 4], [4, 4]]),
        )
        features = expert(pixels)
        wide = expert(torch.randn(1, 3, 48, 96))
    torch.testing.assert_close(features.tokens, own.last_hidden_state, rtol=0, atol=1e-5)
    assert wide.grid == (3, 6)
    assert card(str(folder), descriptions=WORDS)["features"] == {"channels": 16, "grid": [4, 4]}


@pytest.mark.parametrize(
    ("make", "grid"),
    [
        (lambda: tf.Dinov2Backbone(tf.Dinov2Config(**VIT, out_indices=[2])), 4),
        (lambda: tf.ConvNextBackbone(tf.ConvNextConfig(**STAGES, out_indices=[2, 3])), 4),
        (lambda: tf.SwinBackbone(tf.SwinConfig(**SWIN, out_indices=[2])), 8),
    ],
    ids=["dinov2", "convnext", "swin"],
)
def test_a_backbone_gives_the_last_map_of_its_choice(
    make: Callable[[], Any], grid: int, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    model = make().eval()
    expert = _load(_save(model, tmp_path))
    pixels = _pixels(expert)
    with torch.no_grad():
        features, own = expert(pixels), model(pixel_values=pixels).feature_maps[-1]
        assert features.grid == (grid, grid)
        torch.testing.assert_close(features.tokens, _cells(own, grid), rtol=0, atol=1e-5)
        with pytest.raises(ExpertRunError, match="out_indices"):
            _load(tmp_path, PenultimateExpert)(pixels)


# Pictures


@pytest.mark.parametrize("name", ["dinov2", "vit", "clip", "siglip", "convnext", "swin"])
def test_a_card_may_ask_for_another_size(name: str, tmp_path: Path) -> None:
    sees, folder = _saved(name, tmp_path)
    made = read_expert_card(
        write_user_card(card(str(folder), id="resized", descriptions=WORDS, size=(96, 96)), force=True)
    )
    expert = load_expert(made, device=CPU, dtype=torch.float32)
    side = MODELS[name].side * 3 // 2
    pixels = expert.preprocess([picture(96, 64)])
    interpolate = {} if name in ("dinov2", "convnext") else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        features, own = expert(pixels), sees(pixel_values=pixels, **interpolate).last_hidden_state
    assert features.grid == made.features.grid == (side, side)
    torch.testing.assert_close(features.tokens, _cells(own, side), rtol=0, atol=1e-5)


def test_a_size_that_the_network_cannot_read_is_refused(tmp_path: Path) -> None:
    _, folder = _saved("blip", tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "sam_vision_model", "image_size": 64}))
    with pytest.raises(ExpertRunError, match="cannot read pictures of this size"):
        card(str(folder), descriptions=WORDS, size=(96, 96))


def test_a_crop_is_the_publishers_evaluation() -> None:
    settings = {
        **PICTURES,
        "size": {"shortest_edge": 80},
        "crop_size": {"height": 64, "width": 64},
        "do_center_crop": True,
    }
    expert = TransformersExpert.from_config()
    expert.stream = processor_stream(settings, expert.encoder.config, fit="crop")
    processor = CLIPImageProcessorPil(**settings)
    for image in (picture(320, 160), picture(160, 240)):
        own = processor(image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(expert.preprocess([image])[0], own, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "size"),
    [
        ({}, (64, 64)),
        ({"size": 48}, (48, 48)),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, (224, 224)),
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": False}, (256, 256)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384)),
        ({"size": {"longest_edge": 1024}}, (32, 32)),
        ({"size": [40, 56]}, (40, 56)),
    ],
)
def test_sizes_are_read_as_publishers_write_them(changed: dict[str, Any], size: tuple[int, int]) -> None:
    stream = processor_stream({**PICTURES, **changed}, tf.ViTConfig(image_size=32))
    assert stream.size == size and stream.fit == "pad" and stream.pad_colour == (127, 63, 127)


def test_pictures_that_are_not_normalised_keep_their_values() -> None:
    raw = processor_stream({**PICTURES, "do_normalize": False, "do_rescale": False}, tf.ViTConfig())
    assert (raw.mean, raw.std, raw.scale) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"image_mean": None}, "no image_mean"),
        ({"resample": None}, "no resample"),
        ({"resample": 5}, "number 5"),
    ],
)
def test_incomplete_settings_are_refused(changed: dict[str, Any], says: str) -> None:
    settings = {name: value for name, value in {**PICTURES, **changed}.items() if value is not None}
    with pytest.raises(ExpertLoadError, match=says):
        processor_stream(settings, tf.ViTConfig())


def test_settings_may_be_a_part_of_a_processors(tmp_path: Path) -> None:
    assert processor_settings(tmp_path) == {}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": PICTURES}))
    assert processor_settings(tmp_path) == PICTURES


# Weights


@pytest.mark.parametrize("form", ["safetensors", "sharded", "bin"])
def test_every_form_gives_the_same_weights(form: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = tf.Dinov2Model(tf.Dinov2Config(**VIT))
    _save(model, tmp_path, **({"max_shard_size": "5KB"} if form == "sharded" else {}))
    if form == "bin":
        file = tmp_path / "model.safetensors"
        torch.save(load_file(file), tmp_path / "pytorch_model.bin")
        file.unlink()
    files = len(list(tmp_path.glob("*.safetensors")))
    assert min(files, 2) == {"safetensors": 1, "sharded": 2, "bin": 0}[form]
    state, own = _load(tmp_path).encoder.state_dict(), model.state_dict()
    assert state.keys() == own.keys() and all(torch.equal(state[name], own[name]) for name in own)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("dinov2", "encoder.layer.1.mlp.fc1.weight"),
        ("dinov2 with a head", "dinov2.encoder.layer.1.mlp.fc1.weight"),
        ("clip", "vision_model.encoder.layers.1.mlp.fc1.weight"),
        ("llava", "vision_tower.encoder.layers.1.mlp.fc1.weight"),
    ],
)
@pytest.mark.parametrize("wrong", ["missing", "surplus", "of another shape"])
def test_weights_that_do_not_fit_are_named(wrong: str, name: str, tensor: str, tmp_path: Path) -> None:
    _, folder = _saved(name, tmp_path)
    state = load_file(folder / "model.safetensors")
    shown = "mlp"
    if wrong == "missing":
        del state[tensor]
    elif wrong == "surplus":
        state[tensor.replace(".1.", ".99.")] = torch.zeros(2)
        shown = "99"
    else:
        state[tensor] = torch.zeros(3, 4)
        shown = r"\(3, 4\) instead of \(\d+, 16\)"
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExpertLoadError, match=rf"1 {wrong} \(.*{shown}"):
        _load(folder)


def test_a_tower_is_found_under_its_older_name(tmp_path: Path) -> None:
    sees, folder = _saved("llava", tmp_path)
    state = load_file(folder / "model.safetensors")
    older = {name.replace("vision_tower.", "vision_tower.vision_model."): state[name] for name in state}
    assert older.keys() != state.keys()
    save_file(older, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = _load(folder).encoder.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in sees.state_dict().items())


def test_tables_that_the_network_computes_are_not_surplus(tmp_path: Path) -> None:
    sees, folder = _saved("clip", tmp_path)
    state = load_file(folder / "model.safetensors")
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]  # as older files have it
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = _load(folder).encoder.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in sees.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_the_one_asked_for(dtype: torch.dtype, tmp_path: Path) -> None:
    _, folder = _saved("siglip", tmp_path)
    expert = _load(folder, dtype=dtype)
    assert {parameter.dtype for parameter in expert.parameters()} == {dtype} and not expert.training


def test_pooling_is_left_out(tmp_path: Path) -> None:
    for name in ("vit", "siglip"):
        _, folder = _saved(name, tmp_path / name)
        assert not any(key.startswith(("pooler", "head")) for key in _load(folder).state_dict())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "describes no model of transformers"),
        ("{", "describes no model of transformers"),
        (
            '{"model_type": "no-such-model", "auto_map": {"AutoModel": "code.Net"}}',
            "remote code is never run",
        ),
        ('{"model_type": "bert"}', "reads no pictures"),
        ('{"model_type": "vit", "hidden_size": "wide"}', "describes no model of transformers"),
    ],
)
def test_a_folder_without_a_vision_model_is_refused(text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExpertLoadError, match=says):
        _load(tmp_path)


# Cards


def test_a_repository_in_the_hubs_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--someone--Net" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    _saved("dinov2", snapshot)
    (snapshot / "README.md").write_text("---\ntags:\n- vision\nlicense: cc-by-nc-4.0\n---\n# Net\n")
    made = card("hf:someone/Net", descriptions=WORDS)
    assert made["expert"]["id"] == "net" and made["expert"]["title"] == "Net of transformers"
    assert made["weights"]["sources"] == ["hf:someone/Net"] and made["weights"]["revision"] == "main"
    assert made["weights"]["licence"] == "CC-BY-NC-4.0" and "not for commercial" in made["weights"]["notice"]
    with pytest.raises(ExpertLoadError, match=r"Run `hf download someone/other config\.json"):
        card("hf:someone/other", descriptions=WORDS)


def test_a_card_without_a_licence_says_so(tmp_path: Path) -> None:
    _, folder = _saved("dinov2", tmp_path)
    weights = card(f"file:{folder}", descriptions=WORDS)["weights"]
    assert weights["sources"] == [f"file:{folder}"] and weights["licence"] == "LicenseRef-unstated"
    assert "No licence" in weights["notice"]


def test_a_card_needs_image_settings(tmp_path: Path) -> None:
    _, folder = _saved("dinov2", tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ExpertLoadError, match="no image_mean"):
        card(str(folder), descriptions=WORDS)


def test_only_two_layers_can_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layer -3; expected -1 or -2"):
        card(str(tmp_path), descriptions=WORDS, layer=-3)


def test_the_command_line_is_offered_cards(tmp_path: Path) -> None:
    _, folder = _saved("dinov2", tmp_path / "own")
    words: dict[str, Any] = {"id": "a", "descriptions": WORDS, "example_questions": [], "title": None}
    made = load_hooks().card(source=f"file:{folder}", **words)
    assert made == card(str(folder), id="a", descriptions=WORDS)
    (tmp_path / "config.json").write_text('{"architecture": "test_vit", "pretrained_cfg": {}}')
    assert not covers(f"file:{tmp_path}") and not covers("timm:test_vit") and covers("hf:someone/unknown")
