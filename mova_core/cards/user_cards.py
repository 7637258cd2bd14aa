"""Cards of the user's own: an expert that needs no code, since some installed class reads its weights."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mova_core.cards.card import ExpertCard
from mova_core.cards.discovery import card_directory, discover
from mova_core.cards.validation import validated
from mova_core.errors import CardError


def write_user_card(document: Mapping[str, Any], *, force: bool = False) -> Path:
    """Write a card into the user's card directory.

    Args:
        document: the card as its TOML file has it: `{"expert": {...}, "input": {...}, ...}`; entries that
            are None are left out, since TOML cannot say them.
        force: replace the user's card of that id.

    Returns:
        The file. It appears whole or not at all.

    Raises:
        CardError: the document is no card, another expert has its id, or the file cannot be written.
    """
    import tomli_w

    try:
        text = tomli_w.dumps(_stated(document))
    except (TypeError, ValueError) as error:
        raise CardError(f"the card cannot be written as TOML: {error}") from error
    read = tomllib.loads(text)
    folder = card_directory()
    if not isinstance(read.get("expert"), dict):
        raise CardError("the card has no table `[expert]`", value=", ".join(read) or "nothing")
    card = validated(ExpertCard, read, main="expert", path=folder / f"{read['expert'].get('id')}.toml")
    path = folder / f"{card.id}.toml"
    _check_free(card.id, path, force)
    _write_whole(path, text)
    return path


def _stated(value: Any) -> Any:
    """The value without entries that are None."""
    if isinstance(value, Mapping):
        return {str(key): _stated(entry) for key, entry in value.items() if entry is not None}
    return [_stated(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _check_free(id: str, path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise CardError(
            "there is a card of this id", value=str(path), hint="Say --force to replace it, or choose --id."
        )
    for record in discover():
        if record.id == id and record.source != path:
            raise CardError(
                f"{record.distribution} brings an expert of this id",
                value=id,
                expected="an id of its own",
                hint=f"Choose another with --id, such as my-{id}.",
            )


def _write_whole(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=".card-") as scratch:
            written = Path(scratch) / path.name
            written.write_text(text, encoding="utf-8")
            written.replace(path)
    except OSError as error:
        raise CardError(f"card {path} cannot be written: {error.strerror}") from error
