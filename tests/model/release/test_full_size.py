"""Every name and shape of the full-size MoVA-8B, without its weights.

Notation for tensor shapes:
    n: cells of a grid, d: dimensions of an attention head
"""

from __future__ import annotations

import json
from math import isqrt
from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from mova_core.cards.resolve import usable_expert
from mova_core.errors import CheckpointError
from mova_core.model.own_cards import CardChanges, OwnWeights, changed_card
from mova_core.model.release.expected import language_config
from mova_core.model.release.naming import BASE, EXPERTS, tower_file
from mova_core.model.release.plan import Moves, check_moves, plan_moves, read_sizes
from mova_core.model.release.profiles import fitting_profile, profile_names, read_profile
from mova_core.model.release.shards import Shard
from mova_core.model.release.towers import check_towers
from mova_core.model.release.writing import TensorFile, TensorSpec
from mova_expert_codetr.rotary import published_tables

SHAPES = json.loads((Path(__file__).parents[2] / "parity" / "data" / "mova8b_shapes.json").read_text())
BERT_LARGE = BertConfig(
    vocab_size=30522, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
)


def shards(shapes: dict[str, list[int]], count: int = 5) -> tuple[Shard, ...]:
    """A release of these tensors in bfloat16, spread over files that do not exist."""
    specs = {key: TensorSpec(torch.bfloat16, tuple(shape)) for key, shape in shapes.items()}
    size = -(-len(specs) // count)
    names = list(specs)
    return tuple(
        Shard(Path(f"{n}.safetensors"), {key: specs[key] for key in names[first : first + size]})
        for n, first in enumerate(range(0, len(names), size))
    )


def check(files: tuple[Shard, ...]) -> Moves:
    """Plan an import, and refuse what does not fit."""
    moves = plan_moves(files)
    sizes = read_sizes(moves, files, most=3, routing_tokens=144)
    assert (sizes.adapter.grid, sizes.adapter.width, sizes.adapter.heads) == ((48, 48), 1024, 16)
    assert (sizes.text, sizes.out) == (1024, 4096)
    language = language_config(read_profile("llama3-8b").language_model, 128256)
    cards = {id: card for id in EXPERTS if (card := usable_expert(id).card)}
    check_moves(moves, files, sizes, bert=BERT_LARGE, language=language, cards=cards)
    return moves


def saved(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """As safetensors keeps them: of tables that share memory, one."""
    aliased = [key for key in shapes if ".attn.rope." in key]
    return {key: shape for key, shape in shapes.items() if key not in aliased}


@pytest.mark.parametrize("shapes", [SHAPES, saved(SHAPES)], ids=["all", "saved"])
def test_every_key_has_a_place_and_every_place_its_key(shapes: dict[str, list[int]]) -> None:
    assert len(shapes) in (3762, 3714)
    moves = check(shards(shapes))
    places = [(key, place) for own in moves.by_shard for key, all in own.items() for place in all]
    assert {key for key, _ in places} == shapes.keys()
    assert len({(place.file, place.name) for _, place in places}) == len(places)
    for key, place in places:
        assert moves.names.released(place) == key
    back: dict[str, list[int]] = {}
    for key, place in places:  # as they are joined again on the way back: rows below one another
        rows, *rest = moves.files[place.file][place.name].shape
        back[key] = [back.get(key, [0])[0] + rows, *rest]
    assert back == shapes
    gates = [place for key, place in places if ".gate.2." in key]
    assert len(gates) == 3 * 2 * len(EXPERTS)
    assert {place.row for place in gates} == set(range(len(EXPERTS)))


def test_what_does_not_fit_is_listed_in_whole() -> None:
    shapes = dict(SHAPES)
    del shapes["model.layers.7.mlp.up_proj.weight"]
    del shapes["model.mm_projector.blocks.2.cross_attn.3.proj.bias"]
    shapes["model.mm_projector.downsample.0.b1.se.fc1.bias"] = [255]
    shapes["model.image_newline"] = [4096]
    with pytest.raises(CheckpointError) as refused:
        check(shards(shapes))
    for line in (
        "missing: model.layers.7.mlp.up_proj.weight",
        "missing: model.mm_projector.blocks.2.cross_attn.3.proj.bias",
        "misshapen: model.mm_projector.downsample.0.b1.se.fc1.bias [255], expected [256]",
        "unmapped: model.image_newline",
    ):
        assert line in str(refused.value)


@pytest.mark.parametrize(
    ("key", "shape", "said"),
    [
        (
            "model.mm_projector.blocks.1.self_attn.rope.freqs_cos",
            [576, 64],
            r"\[576, 64\], expected \[2304, 64\]",
        ),
        ("blocks.0.self_attn.rope.freqs_cos", [2304, 64], "unmapped: blocks.0.self_attn.rope.freqs_cos"),
        ("model.mm_projector.blocks.99999999.gate.2.weight", [7, 1024], "unmapped: .*99999999"),
    ],
)
def test_keys_that_look_like_a_releases(key: str, shape: list[int], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        check(shards({**SHAPES, key: shape}))


def test_an_adapter_that_lost_its_sizes_is_no_release() -> None:
    shapes = {key: shape for key, shape in SHAPES.items() if not key.endswith("pos_embed")}
    with pytest.raises(CheckpointError, match="pos_embed"):
        check(shards(shapes))


@pytest.mark.parametrize("id", (BASE, *EXPERTS))
def test_every_tower_is_what_its_plugin_reads(id: str, tmp_path: Path) -> None:
    """Files of the full size, which take no room on the disk: nothing but rotary tables is in them."""
    number = (BASE, *EXPERTS).index(id)
    prefix = f"model.vision_tower.vision_tower_{number}."
    tensors = {
        key: TensorSpec(torch.bfloat16, tuple(shape))
        for key, shape in SHAPES.items()
        if key.startswith(prefix)
    }
    with TensorFile(tmp_path / tower_file(id), tensors, {}) as file:
        for key, spec in tensors.items():
            if key.endswith((".freqs_cos", ".freqs_sin")):
                n, d = spec.shape
                table = published_tables(isqrt(n), d)[key.endswith("sin")]
                file.put(key, table.to(torch.bfloat16))
    installed = usable_expert(id).card
    assert installed is not None
    changes = CardChanges(weights=OwnWeights(folder=f"experts/{id}"))
    check_towers(tmp_path, {id: changed_card(installed, changes, tmp_path)})
    name, spec = next((name, spec) for name, spec in tensors.items() if "patch" in name and "weight" in name)
    tensors[name] = TensorSpec(spec.dtype, (*spec.shape[:-1], spec.shape[-1] + 1))
    with TensorFile(tmp_path / tower_file(id), tensors, {}):
        pass
    with pytest.raises(CheckpointError, match=id):
        check_towers(tmp_path, {id: changed_card(installed, changes, tmp_path)})


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_is_found_by_its_sizes(name: str) -> None:
    profile = read_profile(name)
    assert fitting_profile(profile.language_model) == profile
    config = language_config(profile.language_model, profile.language_model["vocab_size"])
    assert config.hidden_size == profile.language_model["hidden_size"]
    for mark in ("{images}", "{question}"):
        assert mark in profile.prompt.user
