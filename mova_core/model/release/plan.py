"""What an import will move where, before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mova_core.cards.card import ExpertCard
from mova_core.fusion.release_keys import HEAD_DIM
from mova_core.model.release import expected
from mova_core.model.release.naming import EXPERTS, Place, ReleaseMap, is_table
from mova_core.model.release.shards import Shard
from mova_core.model.release.writing import TensorSpec
from mova_core.model.settings import AdapterSettings

LANGUAGE = "language_model"


@dataclass(frozen=True, slots=True)
class Moves:
    """Every tensor of a release with its places.

    Args:
        by_shard: for each shard, by tensor, where it goes.
        files: for each file to be written, what it will hold.
        unmapped: names that no release has.
        names: of the release.
    """

    by_shard: tuple[Mapping[str, tuple[Place, ...]], ...]
    files: Mapping[str, Mapping[str, TensorSpec]]
    unmapped: tuple[str, ...]
    names: ReleaseMap

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors to be written."""
        return sum(spec.nbytes for tensors in self.files.values() for spec in tensors.values())


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a release's parts, read off its tensors.

    Args:
        adapter: of the adapter.
        text: width of the text feature.
        out: width of the language model.
        channels: by expert, of its features.
    """

    adapter: AdapterSettings
    text: int
    out: int
    channels: Mapping[str, int]


def plan_moves(shards: tuple[Shard, ...]) -> Moves:
    """Give every tensor its places.

    Args:
        shards: the files of the release.
    """
    names = ReleaseMap([key for shard in shards for key in shard.tensors])
    files: dict[str, dict[str, TensorSpec]] = {}
    by_shard, unmapped = [], []
    for shard, language_file in zip(shards, _language_files(shards, names), strict=True):
        moves = {key: names.places(key, language_file) for key in shard.tensors}
        for key, places in moves.items():
            spec = shard.tensors[key]
            for place in places:
                own = spec if place.row is None else spec.row()
                files.setdefault(place.file, {})[place.name] = own
        unmapped += [key for key, places in moves.items() if not places]
        by_shard.append(moves)
    return Moves(tuple(by_shard), files, tuple(unmapped), names)


def read_sizes(moves: Moves, shards: tuple[Shard, ...], *, most: int, routing_tokens: int) -> Sizes:
    """Sizes of the release's parts.

    Args:
        moves: its tensors.
        shards: its files.
        most: experts that count for one image.
        routing_tokens: image tokens in the routing pass.

    Raises:
        CheckpointError: a tensor that tells a size is missing.
    """
    shapes = {key: spec for shard in shards for key, spec in shard.tensors.items()}
    adapter = expected.adapter_settings(
        shapes, depth=moves.names.depth, most=most, routing_tokens=routing_tokens
    )
    text, out = expected.text_width(shapes), expected.out_width(shapes)
    return Sizes(adapter, text, out, expected.channels(shapes))


def check_moves(
    moves: Moves,
    shards: tuple[Shard, ...],
    sizes: Sizes,
    *,
    bert: Any,
    language: Any,
    cards: Mapping[str, ExpertCard],
) -> None:
    """Refuse a release of which anything is unmapped, missing or misshapen; towers are left to their plugins.

    Args:
        moves: its tensors.
        shards: its files.
        sizes: of its parts.
        bert: configuration of the text encoder.
        language: configuration of the language model.
        cards: of its experts, as the checkpoint will have them.

    Raises:
        CheckpointError: with the whole list.
    """
    wanted = expected.wanted_places(
        sizes.adapter,
        text_dim=sizes.text,
        out_dim=sizes.out,
        experts=sizes.channels,
        bert=bert,
        language=language,
    )
    found: dict[Place, tuple[str, tuple[int, ...]]] = {}
    problems = [f"unmapped: {key}" for key in moves.unmapped]
    problems += _joints(sizes, cards, text=bert.hidden_size, out=language.hidden_size)
    for shard, own in zip(shards, moves.by_shard, strict=True):
        for key, places in own.items():
            shape = shard.tensors[key].shape
            problems += _odd_shape(key, places, shape, sizes)
            for place in places:
                if not place.file.startswith(("experts/", "release/")):
                    file = "" if place.file.startswith(LANGUAGE) else place.file
                    own_shape = shape if place.row is None else (1, *shape[1:])
                    found[Place(file, place.name)] = (key, own_shape)
    expected.refuse(problems + expected.differences(wanted, found, moves.names), "a release of MoVA")


def _odd_shape(key: str, places: tuple[Place, ...], shape: tuple[int, ...], sizes: Sizes) -> list[str]:
    """What is wrong with the shape of a tensor that is shared out, or computed."""
    h, w = sizes.adapter.grid
    if places and places[0].row is not None and shape[:1] != (len(EXPERTS),):
        return [f"misshapen: {key} {list(shape)}, expected {len(EXPERTS)} rows"]
    if is_table(key) and shape != (h * w, HEAD_DIM):
        return [f"misshapen: {key} {list(shape)}, expected {[h * w, HEAD_DIM]}"]
    return []


def _joints(sizes: Sizes, cards: Mapping[str, ExpertCard], *, text: int, out: int) -> list[str]:
    """Where two parts do not fit each other."""
    pairs = [("the text encoder's width", text, sizes.text), ("the language model's width", out, sizes.out)]
    pairs += [(f"the channels of {id}", cards[id].features.channels, n) for id, n in sizes.channels.items()]
    return [f"misshapen: {what} is {own}, the adapter's {n}" for what, own, n in pairs if own != n]


def _language_files(shards: tuple[Shard, ...], names: ReleaseMap) -> list[str]:
    """For each shard the file its share of the language model goes to."""
    holds = [any(p.file == "?" for key in shard.tensors for p in names.places(key, "?")) for shard in shards]
    total, number, files = sum(holds), 0, []
    for has in holds:
        number += has
        files.append(
            f"{LANGUAGE}/model.safetensors"
            if total == 1
            else f"{LANGUAGE}/model-{number:05d}-of-{total:05d}.safetensors"
        )
    return files
