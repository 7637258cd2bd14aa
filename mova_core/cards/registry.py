"""The curated index of `registry/`: known experts and models, installed or not, and where they come from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mova_core.cards.manifest import read_document
from mova_core.cards.sources import DistributionName, DistributionSource, IndexSource
from mova_core.cards.spec import Identifier, Spec, Text
from mova_core.cards.validation import validated
from mova_core.errors import CardError


class RegistryEntry(Spec):
    """One known expert or model.

    Args:
        kind: what it is; a "factory" brings no card, but code that other cards name as their `factory`.
        id: its name, as its card says.
        title: it in a few words.
        keywords: words that people look for it by.
        distribution: what to install to get it.
        homepage: where to read about it.
        code_licence: SPDX identifier of the code.
        weights_licence: SPDX identifier of the weights.
        source: where the distribution is taken from.
        needs: ids of other entries whose distributions it needs.
    """

    kind: Literal["expert", "base", "model", "factory"]
    id: Identifier
    title: Text
    keywords: Annotated[tuple[Text, ...], Field(min_length=1)]
    distribution: DistributionName
    homepage: Text
    code_licence: Text
    weights_licence: Text
    source: DistributionSource
    needs: tuple[Identifier, ...] = ()

    @model_validator(mode="after")
    def _source_is_of_the_distribution(self) -> RegistryEntry:
        if isinstance(self.source, IndexSource):
            name = self.source.requirement.partition("==")[0]
            if name != self.distribution:
                raise ValueError(f"'source' is of {name}, and 'distribution' is {self.distribution}")
        return self


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
    return sorted(entries, key=lambda entry: entry.id)


def parse_registry(text: str | bytes, place: str) -> list[RegistryEntry]:
    """Read an index that is one JSON file: a list of objects with the keys of an entry, `source` among them.

    Args:
        text: the file's content.
        place: where it is from, for messages.

    Returns:
        its entries, by id.

    Raises:
        CardError: it is no such list, an entry is wrong, or two have one id.
    """
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CardError(f"index {place} is not valid JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CardError(f"index {place} has the wrong form", expected="a JSON list of entries")
    entries = [_entry(row, f"{place}, entry {number}") for number, row in enumerate(rows, start=1)]
    repeated = sorted(id for id, count in Counter(entry.id for entry in entries).items() if count > 1)
    if repeated:
        raise CardError(f"index {place} has several entries of one id", value=", ".join(repeated))
    return sorted(entries, key=lambda entry: entry.id)


def _entry(row: dict[str, Any], place: str) -> RegistryEntry:
    """An entry of a JSON index, brought into the form of a TOML file."""
    document: dict[str, Any] = {"entry": {key: value for key, value in row.items() if key != "source"}}
    if "source" in row:
        document["source"] = row["source"]
    return validated(RegistryEntry, document, main="entry", path=place)
