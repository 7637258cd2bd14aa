"""A small release under the released names, eight towers, adapter and language model, and its numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from mova_core.cards.warning import CardWarning
from mova_core.model.release.importing import ImportOptions, import_release

DATA = Path(__file__).parents[2] / "parity" / "data"
SHARDS = tuple(sorted(DATA.glob("h_e2e_weights_*.safetensors")))


@pytest.fixture(scope="session")
def story() -> dict[str, Any]:
    """Sizes and token ids of the recorded release."""
    told: dict[str, Any] = json.loads((DATA / "h_e2e.json").read_text())
    return told


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory, story: dict[str, Any]) -> Path:
    """The release as its users hold it: shards, index, configuration, tokenizers. Not to be changed."""
    folder = tmp_path_factory.mktemp("release")
    dims = story["dims"]
    weights = {}
    for file in SHARDS:
        shutil.copyfile(file, folder / file.name)
        with safe_open(file, framework="pt") as opened:
            weights |= dict.fromkeys(opened.keys(), file.name)
    write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weights})
    told = {
        "model_type": "mova_llama",
        "architectures": ["MovaLlamaForCausalLM"],
        **dims["llama"],
        "vocab_size": 261,
        "image_aspect_ratio": "pad",
        "mm_vision_select_layer": -2,
        "mm_projector_text_encoder": "bert",
        "num_routing_tokens": dims["num_routing_tokens"],
        "topk": dims["topk_experts"],
    }
    write(folder / "config.json", told)
    shutil.copyfile(DATA / "h_e2e_tokenizer.json", folder / "tokenizer.json")
    write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
        },
    )
    bert = folder / "bert"
    bert.mkdir()
    (bert / "vocab.txt").write_text("\n".join(story["bert_vocab"]) + "\n")
    write(bert / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    return folder


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory, story: dict[str, Any]) -> Path:
    """The profile that goes with it."""
    file = tmp_path_factory.mktemp("profile") / "small.toml"
    import tomli_w

    file.write_text(tomli_w.dumps(small_profile(story["dims"])))
    return file


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory, release: Path, profile: Path) -> Path:
    """The release in our layout. Not to be changed."""
    with pytest.warns(CardWarning, match="image processor"):
        return import_release(
            release, tmp_path_factory.mktemp("imported") / "model", ImportOptions(profile=profile)
        )


def small_profile(dims: dict[str, Any]) -> dict[str, Any]:
    """What the release's weights do not tell of its sizes."""

    def pixels(side: int) -> dict[str, Any]:
        return {"size": [side, side]}

    def features(channels: int, side: int) -> dict[str, Any]:
        return {"channels": channels, "grid": [side, side]}

    def sam(kind: str, sizes: dict[str, Any]) -> dict[str, Any]:
        return {
            "model_type": kind,
            "image_size": sizes["img_size"],
            "patch_size": sizes["patch_size"],
            "hidden_size": sizes["embed_dim"],
            "num_hidden_layers": sizes["depth"],
            "num_attention_heads": sizes["num_heads"],
            "window_size": sizes["window_size"],
            "global_attn_indexes": sizes["global_attn_indexes"],
            "output_channels": sizes["out_chans"],
            "mlp_dim": 4 * sizes["embed_dim"],
        }

    def pix2struct(sizes: dict[str, Any]) -> dict[str, Any]:
        return {"model_type": "pix2struct_vision_model", **sizes}

    clip, dino, detr, bio = (dims[name] for name in ("clip", "dinov2", "codetr", "biomedclip"))
    grid = dims["image_feat_size"]
    base_px, high, patches = grid * clip["patch_size"], dims["high_px"], dims["max_patches"]
    rows = int(patches**0.5)
    cut = {"size": [rows * 16, rows * 16], "patches": patches}
    return {
        "title": "small",
        "conversation": "conv_small",
        "language_model": dict(dims["llama"]),
        "prompt": {
            "tokenizer_begins": True,
            "begin": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
            "Answer from the picture.<|eot_id|>",
            "user": "<|start_header_id|>user<|end_header_id|>\n\n{images}{question}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "assistant": "{answer}<|eot_id|>",
            "stop": "<|eot_id|>",
        },
        "routing": {
            "after_image": "Which models help?\n{experts}\n\nQuestion:\n{question}",
            "line": "{label}. {description}",
            "order": ["dinov2", "vary", "codetr", "pix2struct", "deplot", "biomedclip", "sam"],
            "descriptions": dict(
                zip(
                    ["dinov2", "vary", "codetr", "pix2struct", "deplot", "biomedclip", "sam"],
                    ["photos", "dense text", "objects", "documents", "charts", "medicine", "regions"],
                    strict=True,
                )
            ),
        },
        "text_encoder": {"num_attention_heads": 2},
        "towers": {
            "clip": {"model_type": "clip_vision_model", **clip},
            "dinov2": {"model_type": "dinov2", **dino},
            "sam": sam("sam_vision_model", dims["sam"]),
            "vary": sam("got_ocr2_vision", dims["vary"]),
            "pix2struct": pix2struct(dims["pix2struct"]),
            "deplot": pix2struct(dims["deplot"]),
        },
        "cards": {
            "clip": {
                "input": pixels(base_px),
                "features": features(clip["hidden_size"], grid),
                "options": {"side": base_px},
            },
            "dinov2": {"input": pixels(base_px), "features": features(dino["hidden_size"], grid)},
            "vary": {"input": pixels(high), "features": features(32, high // 32)},
            "codetr": {
                "input": pixels(high),
                "features": features(detr["out_chans"], detr["oracle_out"]),
                "options": {
                    "picture": high,
                    "side": detr["oracle_in"],
                    "shrink": detr["oracle_out"],
                    "patch": detr["patch_size"],
                    "width": detr["embed_dim"],
                    "depth": detr["depth"],
                    "heads": detr["num_heads"],
                    "window": detr["window_size"],
                    "global_blocks": [1],
                    "channels": detr["out_chans"],
                },
            },
            "pix2struct": {"input": cut, "features": features(96, rows)},
            "deplot": {"input": cut, "features": features(48, rows)},
            "biomedclip": {
                "input": pixels(base_px),
                "features": features(bio["embed_dim"], 14),
                "options": {
                    "width": bio["embed_dim"],
                    "layers": bio["depth"],
                    "heads": bio["num_heads"],
                    "input_side": base_px,
                },
            },
            "sam": {"input": pixels(high), "features": features(16, high // 16)},
        },
    }


def write(file: Path, document: dict[str, Any]) -> None:
    """Write a JSON file."""
    file.write_text(json.dumps(document, indent=2))
