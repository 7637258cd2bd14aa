"""What a model is made of, counted without loading it: from file headers, configurations and cards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mova_core.cards.card import ExpertCard
from mova_core.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_LAYER = re.compile(r"(.*?\.(\d+))\.")


@dataclass(frozen=True, slots=True)
class Piece:
    """A module of the language model that is placed as a whole.

    Args:
        name: its path.
        shapes: of its weights.
        layer: its number among the layers; None for embedding, norm and head.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """The parts of a model.

    Args:
        pieces: of the language model, in the order in which they run.
        tied: the piece whose weights are the embedding's; empty without one.
        language: the language model's configuration.
        loras: parameters of all LoRAs.
        adapter: parameters of the adapter's core.
        packs: parameters of all packs.
        text_encoder: parameters of the adapter's text encoder.
        base: card of the base encoder.
        experts: cards of the pool.
        most: experts in one route at most.
    """

    pieces: tuple[Piece, ...]
    tied: str
    language: PreTrainedConfig
    loras: int
    adapter: int
    packs: int
    text_encoder: int
    base: ExpertCard
    experts: tuple[ExpertCard, ...]
    most: int


def read_inventory(directory: Path) -> Inventory:
    """Counts the parts of a checkpoint. Nothing is loaded, and nothing is fetched.

    Raises:
        CheckpointError: something is missing or cannot be read.
        PartsError: a part was not fetched; the message holds the command.
    """
    from mova_core.cards.resolve import usable_expert
    from mova_core.model.checkpoint import CORE, LORAS, read_config
    from mova_core.model.load import pool_records
    from mova_core.model.own_cards import own_record
    from mova_core.model.sources import find_source

    config = read_config(directory)
    router = config.router_settings
    language = find_source(config.language_settings.source, directory)
    text = find_source(config.text_settings.source, directory)
    pieces, tied = _pieces(_shapes(language, _causal), own := _configuration(language))
    loras = [directory / name / "adapter_model.safetensors" for name in LORAS if (directory / name).is_dir()]
    packs = [directory / "packs" / f"{entry.id}.safetensors" for entry in config.manifest]
    base = own_record(usable_expert(config.base), config, directory).card
    cards = [record.card for record in pool_records(directory)]
    if base is None:  # `usable_expert` gives none without a card
        raise CheckpointError("the base encoder has no card", value=config.base)
    return Inventory(
        pieces=pieces,
        tied=tied,
        language=own,
        loras=sum(map(_parameters, loras)),
        adapter=_parameters(directory / CORE),
        packs=sum(map(_parameters, packs)),
        text_encoder=_count({k: v for k, v in _shapes(text, _encoder).items() if not k.startswith("cls.")}),
        base=base,
        experts=tuple(card for card in cards if card is not None),
        most=len(cards) if router.kind == "free" else router.max_experts,
    )


def _shapes(folder: Path, build: Callable[[PreTrainedConfig], Any]) -> Shapes:
    """Shapes of a part's weights: from its files' headers, or else from what its configuration makes."""
    files = _weight_files(folder)
    if files:
        return {name: shape for file in files for name, shape in _header(file).items()}
    import torch

    config = _configuration(folder)
    with torch.device("meta"):
        model = build(config)
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a part; none unless all of them are there."""
    index = folder / INDEX
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise CheckpointError("an index of weights cannot be read", value=str(index)) from error
        files = [folder / name for name in sorted(names)]
    else:
        files = [folder / SINGLE]
    return files if all(file.is_file() for file in files) else []


def _header(file: Path) -> Shapes:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "a weight file cannot be read",
            value=str(file),
            expected=f"a whole safetensors file ({error})",
            hint="Fetch or save the checkpoint again.",
        ) from error


def _parameters(file: Path) -> int:
    return _count(_header(file))


def _count(shapes: Shapes) -> int:
    return sum(map(prod, shapes.values()))


def _configuration(folder: Path) -> PreTrainedConfig:
    from transformers import AutoConfig

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # each reader of these files fails in ways of its own
        raise CheckpointError(
            "a part's configuration cannot be read", value=str(folder), expected=str(error)
        ) from error
    return config


def _causal(config: PreTrainedConfig) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]


def _encoder(config: PreTrainedConfig) -> Any:
    from transformers import AutoModel

    return AutoModel.from_config(config)  # type: ignore[no-untyped-call]


def _pieces(shapes: Shapes, config: PreTrainedConfig) -> tuple[tuple[Piece, ...], str]:
    """The pieces of a language model in order, and the name of a head that is tied to the embedding."""
    grouped: dict[str, list[tuple[int, ...]]] = {}
    numbers: dict[str, int] = {}
    for name, shape in shapes.items():
        layer = _LAYER.match(name)
        path = layer[1] if layer else name.rpartition(".")[0]
        grouped.setdefault(path, []).append(shape)
        if layer:
            numbers[path] = int(layer[2])
    head = next((path for path in grouped if path.endswith("lm_head")), "")
    tied = bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
    if tied:
        head = head or "lm_head"
        grouped[head] = []  # the embedding's own
    order = sorted(
        grouped, key=lambda path: (_place(path, path in numbers, head), numbers.get(path, 0), path)
    )
    return tuple(Piece(path, tuple(grouped[path]), numbers.get(path)) for path in order), head if tied else ""


def _place(path: str, is_layer: bool, head: str) -> int:
    """0 for an embedding, 1 for a layer, 2 for what follows, 3 for the head."""
    if path == head:
        return 3
    if is_layer:
        return 1
    return 0 if re.search(r"embed|wte|wpe", path) else 2
