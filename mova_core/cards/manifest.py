"""Reading cards from TOML: `expert.toml` of an expert, `model.toml` of a model."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mova_core.cards.warning import warn
from mova_core.errors import CardError

if TYPE_CHECKING:
    from mova_core.cards.card import ExpertCard
    from mova_core.cards.models import ModelCard


class IncompatibleCardError(CardError):
    """A card is written for another version of the expert contract."""


def read_expert_card(path: Path) -> ExpertCard:
    """Read the card of an expert.

    Args:
        path: an `expert.toml`: table `[expert]`, with `[input]`, `[features]`, `[memory_mb]` and `[weights]`.

    Raises:
        IncompatibleCardError: the card's `api_version` is not ours.
        CardError: the file cannot be read, is not TOML, or a key is missing or wrong.
    """
    from mova_core.cards.card import ExpertCard
    from mova_core.cards.validation import validated

    document = read_document(path, "expert")
    _check_api_version(document["expert"], path)
    card = validated(ExpertCard, document, main="expert", path=path)
    for number in descriptions_naming(card):
        warn(f"{path}: description {number} names the expert; the router must not see {card.id!r}")
    return card


def descriptions_naming(card: ExpertCard) -> list[int]:
    """Numbers, from 1, of the descriptions in which a card names its expert."""
    name = rf"(?<![a-z0-9]){re.escape(card.id)}(?![a-z0-9])"
    return [
        number
        for number, words in enumerate(map(str.lower, card.descriptions), start=1)
        if card.id in words and re.search(name, words)  # most never get as far as the pattern
    ]


def read_model_card(path: Path) -> ModelCard:
    """Read the card of a model.

    Args:
        path: a `model.toml`: table `[model]`, then one `[[parts]]` for each part.

    Raises:
        CardError: the file cannot be read, is not TOML, or a key is missing or wrong.
    """
    from mova_core.cards.models import ModelCard
    from mova_core.cards.validation import validated

    return validated(ModelCard, read_document(path, "model"), main="model", path=path)


def read_document(path: Path, main: str) -> dict[str, Any]:
    """Parse a TOML file that has a table `main`.

    Raises:
        CardError: the file cannot be read, is not TOML, or lacks the table.
    """
    try:
        document = _parsed(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise CardError(f"card {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CardError(f"card {path} is not UTF-8 text", expected="a TOML file") from error
    if not isinstance(document.get(main), dict):
        raise CardError(f"{path}: table `[{main}]` is missing")
    return document


def _parsed(text: str, path: Path) -> dict[str, Any]:
    """A TOML document; rtoml reads it in a tenth of the time that the standard library takes."""
    import rtoml

    with suppress(rtoml.TomlParsingError):
        document: dict[str, Any] = rtoml.loads(text)
        return document
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # which says the line
        raise CardError(f"card {path} is not valid TOML: {error}") from error


def _check_api_version(table: dict[str, Any], path: Path) -> None:
    """Before anything else is read: a card of another version may have other keys."""
    from mova_core.cards.card import API_VERSION

    version = table.get("api_version")
    if version is None:
        raise CardError(f"{path}: key `[expert] api_version` is missing", expected=str(API_VERSION))
    if version != API_VERSION:
        raise IncompatibleCardError(
            f"{path}: the expert is written for another version of the expert contract",
            value=f"api_version = {version!r}",
            expected=str(API_VERSION),
            hint="Update mova-core, or the expert, until both speak the same version.",
        )
