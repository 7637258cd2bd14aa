"""From a parsed TOML document to a validated `Spec`, with errors in the words of the file.

The keys of the document's main table are the spec's own fields; every other table is one field.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from mova_core.cards.spec import Spec
from mova_core.cards.warning import warn
from mova_core.errors import CardError

S = TypeVar("S", bound=Spec)
Place = tuple[str | int, ...]
"""Where a value is: field names, and positions in lists."""


def validated(kind: type[S], document: dict[str, Any], *, main: str, path: Path | str) -> S:
    """Build a `kind` from a document; unknown keys are dropped with a warning.

    Args:
        kind: the spec to build.
        document: the parsed TOML; not modified.
        main: name of the main table.
        path: the file, or where else the document is from, for messages.

    Raises:
        CardError: a key is missing, misplaced or wrong; names file and key.
    """
    tables = _tables(kind)
    for name in sorted(tables & document[main].keys()):
        raise CardError(f"{path}: key `[{main}] {name}` is misplaced", expected=f"a table `[{name}]`")
    unknown_tables = [name for name in document if name not in tables and name != main]
    for name in unknown_tables:
        _warn_unknown(path, f"[{name}]", name, [main, *tables])
    data = {**document[main], **{name: document[name] for name in tables & document.keys()}}
    with suppress(ValidationError):
        return kind.model_validate(data)  # refuses unknown keys, so only a card with a fault is walked below
    for place, known in _unknown(kind, data):
        _warn_unknown(path, _in_file(place, main, tables), str(place[-1]), known)
    try:
        return kind.model_validate(_without_unknown(kind, data))
    except ValidationError as error:
        raise _card_error(error, kind, main, tables, path) from error


def _warn_unknown(path: Path | str, shown: str, name: str, known: list[str]) -> None:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    warn(f"{path}: unknown key `{shown}`" + (f"; did you mean `{near[0]}`?" if near else ""))


def _specs_inside(annotation: Any) -> list[type[Spec]]:
    """The `Spec` classes of `X`, `X | None`, `tuple[X, ...]`, or a union told apart by `kind`."""
    candidates = (annotation, *typing.get_args(annotation))
    return [found for found in candidates if isinstance(found, type) and issubclass(found, Spec)]


def _spec_inside(annotation: Any, value: Any) -> type[Spec] | None:
    """The `Spec` class that a value of this annotation is meant to be."""
    specs = _specs_inside(annotation)
    if len(specs) > 1 and isinstance(value, dict):
        wanted = value.get("kind")
        specs = [
            spec for spec in specs if wanted in typing.get_args(spec.model_fields["kind"].annotation)
        ] or specs
    return specs[0] if specs else None


@cache
def _tables(kind: type[Spec]) -> frozenset[str]:
    """The fields that a document writes as tables of their own."""
    return frozenset(name for name, field in kind.model_fields.items() if _is_table(field.annotation))


def _is_table(annotation: Any) -> bool:
    return bool(_specs_inside(annotation)) or typing.get_origin(annotation) is dict


def _unknown(kind: type[Spec], data: Any, place: Place = ()) -> Iterator[tuple[Place, list[str]]]:
    """Yield place and known neighbours of every key that `kind` does not have."""
    if isinstance(data, list):
        for index, row in enumerate(data):
            yield from _unknown(kind, row, (*place, index))
    elif isinstance(data, dict):
        for key, value in data.items():
            field = kind.model_fields.get(key)
            if field is None:
                yield (*place, key), list(kind.model_fields)
            elif inner := _spec_inside(field.annotation, value):
                yield from _unknown(inner, value, (*place, key))


def _without_unknown(kind: type[Spec], data: Any) -> Any:
    """A copy of `data` with just the keys that `kind` has."""
    if isinstance(data, list):
        return [_without_unknown(kind, row) for row in data]
    if not isinstance(data, dict):
        return data
    kept = {}
    for key, value in data.items():
        if field := kind.model_fields.get(key):
            inner = _spec_inside(field.annotation, value)
            kept[key] = _without_unknown(inner, value) if inner else value
    return kept


def _in_file(place: Place, main: str, tables: frozenset[str]) -> str:
    """The place as the file writes it: `[input] size`, `[[parts]] 2 sha256`, `[expert] domains 3`."""
    if not place:
        return f"[{main}]"
    head, *rest = place
    if head not in tables:
        head, rest = main, list(place)
    steps = [str(step + 1) if isinstance(step, int) else step for step in rest]
    listed = head != main and rest and isinstance(rest[0], int)
    return " ".join([f"[[{head}]]" if listed else f"[{head}]", *steps])


def _field_place(kind: type[Spec], location: Place) -> Place:
    """Pydantic's location without the names of union branches and of dict keys."""
    place: list[str | int] = []
    inside: list[type[Spec]] = [kind]
    for step in location:
        if isinstance(step, int):
            place.append(step)
        elif field := next((spec.model_fields[step] for spec in inside if step in spec.model_fields), None):
            place.append(step)
            inside = _specs_inside(field.annotation)
        elif len(place) == 1 and typing.get_origin(kind.model_fields[str(place[0])].annotation) is dict:
            place.append(step)
    return tuple(place)


def _card_error(
    error: ValidationError, kind: type[Spec], main: str, tables: frozenset[str], path: Path | str
) -> CardError:
    """The first wrong key, with all that is wrong with it; the others are counted."""
    by_place: dict[Place, list[Any]] = {}
    for problem in error.errors(include_url=False):
        by_place.setdefault(_field_place(kind, problem["loc"]), []).append(problem)
    place, problems = next(iter(by_place.items()))
    key = _in_file(place, main, tables)
    more = f" (and {len(by_place) - 1} more)" if len(by_place) > 1 else ""
    first = problems[0]
    if first["type"] == "union_tag_not_found":
        return CardError(f"{path}: key `{key} kind` is missing{more}")
    if first["type"] == "union_tag_invalid":
        tags = first["ctx"]
        return CardError(
            f"{path}: `{key} kind` is wrong{more}", value=tags["tag"], expected=tags["expected_tags"]
        )
    if first["type"] == "missing":
        what = "table" if len(place) == 1 and place[0] in tables else "key"
        return CardError(f"{path}: {what} `{key}` is missing{more}")
    wishes = dict.fromkeys(problem["msg"].removeprefix("Value error, ") for problem in problems)
    shown = first["input"] if not isinstance(first["input"], dict) else None
    return CardError(f"{path}: `{key}` is wrong: {', or '.join(wishes)}{more}", value=shown)
