"""`mova experts search`: known experts and models, installed or not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mova_core.cards.installed import version
from mova_core.cli.plan import OtherIndex
from mova_core.cli.table import print_rows

if TYPE_CHECKING:
    from mova_core.cards.registry import RegistryEntry

app = typer.Typer()


@app.command()
def search(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORDS]...", help="All of them must match; none shows all.")
    ] = None,
    index: OtherIndex = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search the index of known experts and models."""
    from mova_core.cli.index import open_index

    known = open_index(index)
    wanted = [word for text in words or () for word in text.lower().split()]
    found = [(rank, entry) for entry in known.entries if (rank := _rank(entry, wanted)) is not None]
    rows = [_row(entry) for _, entry in sorted(found, key=lambda pair: (-pair[0], pair[1].id))]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        _print_table(rows)
    else:
        print(f"None of the {len(known.entries)} entries of {known.place} has all of: {' '.join(wanted)}")


def _rank(entry: RegistryEntry, words: list[str]) -> int | None:
    """How well an entry matches; None if a word is nowhere in it. Its name counts most, then its keywords."""
    places = (
        (3, [entry.id, entry.distribution, entry.kind]),
        (2, [keyword.lower() for keyword in entry.keywords]),
        (1, [entry.title.lower()]),
    )
    ranks = [
        max((worth for worth, texts in places if any(word in text for text in texts)), default=0)
        for word in words
    ]
    return sum(ranks) if all(ranks) else None


def _row(entry: RegistryEntry) -> dict[str, Any]:
    """An entry as `--json` shows it."""
    return entry.model_dump(mode="json", exclude_none=True) | {"installed": version(entry.distribution)}


def _print_table(rows: list[dict[str, Any]]) -> None:
    columns = ("id", "kind", "installed", "code_licence", "weights_licence", "title")
    print_rows(
        ("ID", "KIND", "INSTALLED", "CODE", "WEIGHTS", "TITLE"),
        [[row[column] or "no" for column in columns] for row in rows],
    )
