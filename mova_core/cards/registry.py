"""The curated index of `registry/`: which experts and models exist, installed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mova_core.cards.manifest import read_document
from mova_core.cards.spec import Identifier, Spec, Text
from mova_core.cards.validation import validated
from mova_core.errors import CardError


class RegistryEntry(Spec):
    """One known expert or model.

    Args:
        kind: what it is.
        id: its name, as its card says.
        title: it in a few words.
        distribution: what to install to get it.
        homepage: where to read about it.
        code_licence: SPDX identifier of the code.
        weights_licence: SPDX identifier of the weights.
    """

    kind: Literal["expert", "base", "model"]
    id: Identifier
    title: Text
    distribution: Text
    homepage: Text
    code_licence: Text
    weights_licence: Text


def read_registry(folder: Path) -> list[RegistryEntry]:
    """Read every `*.toml` of a registry folder.

    Returns:
        its entries, by id.

    Raises:
        CardError: a file is no entry, or is not named after its id; names the file.
    """
    entries = []
    for path in sorted(folder.glob("*.toml")):
        entry = validated(RegistryEntry, read_document(path, "entry"), main="entry", path=path)
        if path.stem != entry.id:
            raise CardError(f"{path}: the file is not named after its id", expected=f"{entry.id}.toml")
        entries.append(entry)
    return entries
