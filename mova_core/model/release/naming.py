"""Where each tensor of a release goes in a checkpoint of ours, and back.

Sources: names and shapes of the released MoVA-8B. A release numbers its towers and its experts; here each has
a name. Towers keep the names of the release in their files, since every expert's plugin reads those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mova_core.fusion.release_keys import TEXT, ReleaseNames, adapter_depth, is_rotary

BASE: Final = "clip"
EXPERTS: Final = ("dinov2", "vary", "codetr", "pix2struct", "deplot", "biomedclip", "sam")
"""The experts of a release, in the order of its letters; in our checkpoints they are names."""

CORE: Final = "core.safetensors"
TEXT_FILE: Final = "text_encoder/model.safetensors"
ASIDE: Final = "release/aside.safetensors"
"""What can be computed, such as rotary tables: kept for the way back, and read by nobody else."""

ADAPTER: Final = "model.mm_projector."
_TOWER: Final = re.compile(r"model\.vision_tower\.vision_tower_(\d)\.")
_BERT: Final = f"{ADAPTER}{TEXT}bert."
_LANGUAGE: Final = re.compile(r"(model\.(embed_tokens|layers|norm)|lm_head)\.")
_COMPUTED: Final = re.compile(r".*(\.rotary_emb\.inv_freq|text_encoder\..*\.position_ids)")
"""Buffers that older versions of transformers saved."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor goes.

    Args:
        file: path inside the checkpoint.
        name: the tensor's name in that file.
        row: the one row of the released tensor that goes there; None for all of it.
    """

    file: str
    name: str
    row: int | None = None


def pack_file(id: str) -> str:
    """The file of an expert's pack."""
    return f"packs/{id}.safetensors"


def tower_file(id: str) -> str:
    """The file of an expert's or the base encoder's own weights."""
    return f"{tower_folder(id)}/model.safetensors"


def is_table(key: str) -> bool:
    """Whether that is a rotary table of the adapter; Co-DETR's are left to its plugin."""
    return key.startswith(ADAPTER) and is_rotary(key.removeprefix(ADAPTER))


def tower_folder(id: str) -> str:
    """The folder of an expert's or the base encoder's own weights."""
    return f"experts/{id}"


class ReleaseMap:
    """The places of a release's tensors.

    Args:
        keys: names of all its tensors.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        own = [key.removeprefix(ADAPTER) for key in keys if key.startswith(ADAPTER)]
        self.depth = adapter_depth(own)
        self.adapter = ReleaseNames(self.depth, EXPERTS)

    def places(self, key: str, language_file: str) -> tuple[Place, ...]:
        """Where the tensor of that name goes; nothing for a name that no release has.

        Args:
            key: a name of the release.
            language_file: the file for tensors of the language model.
        """
        if _COMPUTED.fullmatch(key) or is_table(key):
            return (Place(ASIDE, key),)
        if tower := _TOWER.match(key):
            number = int(tower[1])
            ids = (BASE, *EXPERTS)
            return (Place(tower_file(ids[number]), key),) if number < len(ids) else ()
        if key.startswith(_BERT):
            return (Place(TEXT_FILE, key.removeprefix(_BERT)),)
        if key.startswith(ADAPTER):
            owned = self.adapter.owners(key.removeprefix(ADAPTER))
            return tuple(Place(pack_file(o.owner) if o.owner else CORE, o.name, o.row) for o in owned)
        return (Place(language_file, key),) if _LANGUAGE.match(key) else ()

    def released(self, place: Place) -> str:
        """The release's name of what goes to a place."""
        if place.file == TEXT_FILE:
            return _BERT + place.name
        if place.file == CORE:
            return ADAPTER + self.adapter.released(None, place.name)
        if place.file.startswith("packs/"):
            id = place.file.removeprefix("packs/").removesuffix(".safetensors")
            return ADAPTER + self.adapter.released(id, place.name)
        return place.name
