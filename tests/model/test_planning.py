"""Plans: of the tiny model, held against the bytes that are loaded; of one of full size, by its headers."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mova_core
from mova_core.cards.warning import CardWarning
from mova_core.errors import CheckpointError, ConfigError, PoolError
from mova_core.model.placement import Device, MemoryPlan
from mova_core.model.planning import machine_devices, plan_memory, ways_out

ROOMY = (Device("cpu", 10 * 10**9),)


def weight_bytes(module: nn.Module, *, loras: bool = False) -> int:
    """Bytes of parameters, with what quantised ones need to be read; of LoRAs, or of all else."""
    total = 0
    for name, weight in module.named_parameters():
        if ("lora_" in name) == loras:
            scales = [
                getattr(weight, "SCB", None),
                getattr(getattr(weight, "quant_state", None), "absmax", None),
            ]
            total += sum(t.numel() * t.element_size() for t in (weight, *scales) if t is not None)
    return total


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", [None, "8bit", "4bit"])
def test_a_plan_says_the_bytes_that_are_loaded(tiny: Path, dtype: str, quantization: str | None) -> None:
    plan = plan_memory(tiny, devices=ROOMY, dtype=dtype, quantization=quantization)
    mova = mova_core.load(tiny, plan=plan)
    model = mova.model
    said = {item.name: item.nbytes for item in plan.sizes.resident}
    assert sum(piece.nbytes for piece in plan.sizes.language) == weight_bytes(model.language_model)
    assert said["LoRAs"] == weight_bytes(model.language_model, loras=True)
    assert said["adapter"] + said["packs of 3 experts"] == weight_bytes(model.adapter)
    assert said["text encoder"] == weight_bytes(model.text_encoder)
    assert mova.pool.ids == tuple(sorted(plan.sizes.experts))
    assert {weight.dtype for weight in model.base.parameters()} == {getattr(torch, dtype)}


def test_without_weights_the_configuration_is_counted(tiny: Path, tiny_home: Path, tmp_path: Path) -> None:
    wanted = plan_memory(tiny, devices=ROOMY, dtype="float32").sizes.language
    for part in ("language", "text"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_bytes((tiny_home / part / "config.json").read_bytes())
    config = json.loads((tiny / "config.json").read_text())
    config["language_model"]["source"] = f"file:{tmp_path / 'language'}"
    config["text_encoder"]["source"] = f"file:{tmp_path / 'text'}"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for part in ("core.safetensors", "packs", "answer", "router"):
        (folder / part).symlink_to(tiny / part)
    assert plan_memory(folder, devices=ROOMY, dtype="float32").sizes.language == wanted


def test_the_pool_is_held_to_the_plan(tiny: Path, picture: Any) -> None:
    mova = mova_core.load(tiny)
    largest = max(mova.pool.expert(id).nbytes for id in mova.pool.ids)
    roomy = plan_memory(tiny, devices=ROOMY, dtype="float32")
    room = max(largest, *roomy.sizes.experts.values())
    plan = plan_memory(tiny, devices=(Device("cpu", ROOMY[0].nbytes - roomy.budget + room),), dtype="float32")
    assert plan.budget == room and not plan.routes[-1].together and plan.routes[-1].runs
    held = mova_core.load(tiny, plan=plan)
    held.ask(picture(1), "Why?", experts=list(held.pool.ids), max_new_tokens=1)
    assert 0 < held.pool.loaded_bytes <= plan.budget
    assert len(held.pool.loaded) < len(held.pool.ids)
    assert held.pool.expert("tiny-base") is held.model.base  # which took nobody's room


def test_an_expert_that_a_plan_has_no_room_for_cannot_run(tiny: Path, picture: Any) -> None:
    roomy = plan_memory(tiny, devices=ROOMY, dtype="float32", quantization="8bit")
    crowded = (Device("cpu", ROOMY[0].nbytes - roomy.budget),)
    plan = plan_memory(tiny, devices=crowded, dtype="float32", quantization="8bit")
    assert plan.loads and not plan.fits and plan.budget == 0
    assert set(plan.never) == set(plan.sizes.experts)
    with pytest.raises(PoolError, match="alone exceeds the pool's memory budget"):
        mova_core.load(tiny, plan=plan).ask(picture(1), "Why?", experts=["tiny-red"], max_new_tokens=1)


def test_by_a_plan_layers_stay_on_disk_and_the_answer_is_the_same(
    tiny: Path, assistant: Any, picture: Any
) -> None:
    roomy = plan_memory(tiny, devices=ROOMY, dtype="float32")
    short = ROOMY[0].nbytes - roomy.budget - 30_000
    plan = plan_memory(tiny, devices=(Device("cpu", short),), dtype="float32")
    assert plan.offloaded and plan.loads and not plan.fits
    mova = mova_core.load(tiny, plan=plan)
    absent = [name for name, weight in mova.model.language_model.named_parameters() if weight.is_meta]
    assert absent and all(name.startswith(tuple(piece.name for piece in plan.offloaded)) for name in absent)
    ask = {"experts": ["tiny-red"], "max_new_tokens": 4}
    assert mova.ask(picture(1), "Why?", **ask).text == assistant.ask(picture(1), "Why?", **ask).text


def test_a_budget_can_be_found_by_itself(tiny: Path) -> None:
    mova = mova_core.load(tiny, memory_budget="auto", dtype="float32")
    mova.pool.expert("tiny-red")
    with pytest.raises(ConfigError, match="plans for one device"):
        mova_core.load(tiny, memory_budget="auto", device_map="auto")


def test_a_machine_has_some_device() -> None:
    devices = machine_devices()
    assert devices and all(device.nbytes > 0 for device in devices)


def test_a_plan_and_what_it_says_are_not_given_together(tiny: Path) -> None:
    plan = plan_memory(tiny, devices=ROOMY)
    with pytest.raises(ConfigError, match="a plan says this itself; got device, dtype"):
        mova_core.load(tiny, plan=plan, device="cpu", dtype="float32")


def test_a_plan_that_cannot_be_loaded_is_refused(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="by this plan the model does not fit; got cuda:0 0.6 GB"):
        mova_core.load(tiny, plan=plan_memory(tiny, gpus="600MB"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantization": "2bit"}, "unknown quantisation; got 2bit"),
        ({"context": 5000}, "reads no conversation of this length; got 5,000 tokens; expected 1 to 1,024"),
        ({"dtype": "int8"}, "cannot be loaded in this dtype"),
        ({"gpus": "many"}, "these are no GPUs; got many"),
    ],
)
def test_wrong_options_are_said(tiny: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_memory(tiny, **options)
    assert said in str(caught.value)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40])
def test_a_damaged_file_is_named(checkpoint: Path, damage: bytes) -> None:
    (checkpoint / "packs" / "tiny-red.safetensors").write_bytes(damage)
    with pytest.raises(CheckpointError, match="a weight file cannot be read.*tiny-red"):
        plan_memory(checkpoint)


# A model as large as the released MoVA-8B: headers, configurations and the cards of the paper's experts.

CHANNELS = {
    "biomedclip": 768,
    "codetr": 256,
    "deplot": 768,
    "dinov2": 1536,
    "pix2struct": 1536,
    "sam": 256,
    "vary": 512,
}
LANGUAGE = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
TEXT_ENCODER, BLOCKS, REST_OF_ADAPTER = 334_092_288, 122_900_493, 28_615_168
PACK = 10_000_000


def hollow(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A safetensors file of true size with a header and nothing else; it takes no room on disk."""
    ends = [0]
    for shape in shapes.values():
        ends.append(ends[-1] + 2 * prod(shape))
    header = {
        name: {"dtype": "BF16", "shape": shape, "data_offsets": ends[place : place + 2]}
        for place, (name, shape) in enumerate(shapes.items())
    }
    raw = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + ends[-1])


def llama_layer(number: int) -> dict[str, tuple[int, ...]]:
    inner, wide, narrow = 14_336, 4096, 1024
    shapes = {
        "self_attn.q_proj": (wide, wide),
        "self_attn.k_proj": (narrow, wide),
        "self_attn.v_proj": (narrow, wide),
        "self_attn.o_proj": (wide, wide),
        "mlp.gate_proj": (inner, wide),
        "mlp.up_proj": (inner, wide),
        "mlp.down_proj": (wide, inner),
        "input_layernorm": (wide,),
        "post_attention_layernorm": (wide,),
    }
    return {f"model.layers.{number}.{name}.weight": shape for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint. Its language model lies in two shards."""
    home = tmp_path_factory.mktemp("full-size")
    ends = {"model.embed_tokens.weight": (128_256, 4096), "lm_head.weight": (128_256, 4096)}
    shards = {
        "model-1.safetensors": ends | {"model.norm.weight": (4096,)},
        "model-2.safetensors": {k: v for n in range(32) for k, v in llama_layer(n).items()},
    }
    for file, shapes in shards.items():
        hollow(home / "language" / file, shapes)
    index = {"weight_map": {name: file for file, shapes in shards.items() for name in shapes}}
    (home / "language" / "model.safetensors.index.json").write_text(json.dumps(index))
    (home / "language" / "config.json").write_text(json.dumps(LANGUAGE))
    hollow(home / "text" / "model.safetensors", {"all.weight": (TEXT_ENCODER,)})
    (home / "text" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    core = BLOCKS - PACK * len(CHANNELS) + REST_OF_ADAPTER
    hollow(home / "model" / "core.safetensors", {"all": (core,)})
    for id in CHANNELS:
        hollow(home / "model" / "packs" / f"{id}.safetensors", {"all": (PACK,)})
    config = {
        "model_type": "mova",
        "base": "clip",
        "adapter": {"width": 1024, "heads": 16, "grid": [48, 48], "routing_grid": [12, 12]},
        "text_encoder": {"source": f"file:{home / 'text'}", "width": 1024},
        "language_model": {"source": f"file:{home / 'language'}", "width": 4096},
        "pool": [{"id": id, "channels": channels} for id, channels in CHANNELS.items()],
        "image_token_id": 128_256,
    }
    (home / "model" / "config.json").write_text(json.dumps(config))
    return home / "model"


def planned(directory: Path, gpus: str, **options: Any) -> MemoryPlan:
    with pytest.warns(CardWarning):  # the made-up manifest knows no revisions
        return plan_memory(directory, gpus=gpus, **options)


def held(plan: MemoryPlan, device: int = 0) -> dict[str, int]:
    return {item.name: item.nbytes for item in plan.shares[device].items}


def test_24_gb_hold_it_in_16_bits(full_size: Path) -> None:
    plan = planned(full_size, "24GB", dtype="bf16")
    assert plan.fits and plan.device_map is None
    found = held(plan)
    assert found["language model, all of it"] == 2 * 8_030_261_248
    assert found["text encoder"] == 2 * TEXT_ENCODER
    assert found["adapter"] + found["packs of 7 experts"] == 2 * (BLOCKS + REST_OF_ADAPTER)
    # Tokens, layers, keys and values, heads, width of a head, bytes.
    assert found["keys and values"] == 4096 * 32 * 2 * 8 * 128 * 2
    assert plan.budget == 24 * 10**9 - sum(found.values())
    assert 2 * 10**9 < plan.budget < 5 * 10**9
    assert plan.arguments["device"] == "cuda:0" and plan.arguments["memory_budget"] == plan.budget
    assert not plan.routes[2].together and plan.routes[2].runs  # its three largest experts take turns


def test_more_room_for_the_conversation_is_less_for_experts(full_size: Path) -> None:
    short, long = (planned(full_size, "24GB", context=tokens) for tokens in (1024, 8192))
    assert long.budget == short.budget - 7168 * 32 * 2 * 8 * 128 * 2
    usual, generous = (planned(full_size, "24GB", working=n * 10**9) for n in (1, 2))
    assert usual.budget == planned(full_size, "24GB").budget == generous.budget + 10**9


def test_what_16_gb_cannot_hold_fewer_bits_or_two_of_them_can(full_size: Path) -> None:
    plan = planned(full_size, "16GB")
    assert not plan.fits and plan.loads and plan.elsewhere == "cpu"
    mapped = plan.device_map or {}
    assert mapped["model.layers.0"] == "cpu" and mapped["model.layers.31"] == "cuda:0"
    assert not plan.never  # layers gave way to them
    with pytest.warns(CardWarning):
        out = dict(ways_out(plan))
    assert list(out) == ["--quantize 8bit", "--quantize 4bit", "--gpus 16000MB,16000MB"]
    assert all(other.fits for other in out.values())
    four = planned(full_size, "16GB", quantization="4bit")
    assert held(four)["language model, all of it"] == pytest.approx(
        2 * 2 * 128_256 * 4096 + 6_979_584_000 * (0.5 + 4 / 64), rel=1e-3
    )


def test_quantised_layers_are_not_left_elsewhere(full_size: Path) -> None:
    plan = planned(full_size, "8GB", quantization="4bit")
    assert plan.offloaded and not plan.loads


def test_over_two_gpus_the_experts_have_the_first(full_size: Path) -> None:
    plan = planned(full_size, "2x24GB")
    mapped = plan.device_map or {}
    assert mapped.pop("model.embed_tokens") == "cuda:0"
    assert set(mapped.values()) == {"cuda:1"} and list(mapped)[-2:] == ["model.norm", "lm_head"]
    assert set(plan.together) == set(CHANNELS) and plan.routes[2].together
    smaller = planned(full_size, "2x12GB")
    where = list((smaller.device_map or {}).values())
    assert where == sorted(where) and set(where) == {"cuda:0", "cuda:1"} and smaller.fits
