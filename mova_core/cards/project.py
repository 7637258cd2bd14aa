"""The experts of a plugin's source folder, installed or not, as its pyproject.toml names them."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from mova_core.cards.discovery import EXPERTS, user_expert
from mova_core.cards.records import ExpertRecord
from mova_core.errors import CardError


def import_roots(folder: Path) -> list[Path]:
    """Where a project's packages may lie: the folder itself, and its `src`."""
    return [root.resolve() for root in (folder, folder / "src") if root.is_dir()]


def project_experts(folder: Path) -> list[ExpertRecord]:
    """The records of the experts that a project would bring if it were installed.

    Args:
        folder: with a pyproject.toml.

    Raises:
        CardError: there is no such file, it is not TOML, or it names no expert.
    """
    path = folder / "pyproject.toml"
    named = _entry_points(path)
    if not named:
        raise CardError(
            f"{path} names no expert",
            expected=f'a table [project.entry-points."{EXPERTS}"] with `id = "package:file"`',
        )
    return [_record(folder, str(id), str(value)) for id, value in named.items()]


def _entry_points(path: Path) -> dict[str, Any]:
    try:
        document: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CardError(
            "neither a card nor a project",
            value=str(path.parent),
            expected="a card file, or a folder with a pyproject.toml",
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CardError(f"{path} cannot be read: {error}") from error
    for key in ("project", "entry-points", EXPERTS):
        document = document.get(key) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else {}


def _record(folder: Path, id: str, value: str) -> ExpertRecord:
    package, _, file = value.partition(":")
    places = [root / package / file for root in import_roots(folder)]
    if not file or not package.isidentifier():
        problem = f"entry point {id} has the wrong form: {value}"
        return _invalid(id, problem, f'Write {id} = "top_package:file.toml" in pyproject.toml.')
    card = next((place for place in places if place.is_file()), None)
    if card is None:
        return _invalid(id, f"{places[0]} is not there", "Write the card.")
    record = user_expert(card)
    if record.card and record.id != id:
        problem = f"the card says id {record.id}, its entry point {id}"
        return replace(record, status="invalid-card", problem=problem, hint="Give both one name.")
    return record


def _invalid(id: str, problem: str, hint: str) -> ExpertRecord:
    return ExpertRecord(id, "invalid-card", problem=problem, hint=hint)
