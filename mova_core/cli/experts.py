"""`mova experts list` and `describe`: what is installed, and what is known of it."""

from __future__ import annotations

import json
from typing import Annotated, Any, get_args

import typer

from mova_core.cards.discovery import card_directory, discover
from mova_core.cards.records import ExpertRecord, Status
from mova_core.cards.resolve import checked, find_expert
from mova_core.cli.expert_text import description, print_table
from mova_core.errors import ConfigError

app = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_experts(
    as_json: AsJson = False,
    status: Annotated[str | None, typer.Option(help="Only experts of this status.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Import each expert's code to see if that works.")
    ] = False,
) -> None:
    """List the experts of this environment, usable or not."""
    if status is not None and status not in get_args(Status):
        raise ConfigError("no such status", value=status, expected=", ".join(get_args(Status)))
    records = [checked(record) if check else record for record in discover()]
    rows = [summary(record) for record in records if status in (None, record.status)]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        print_table(rows)
    else:
        folder = card_directory()
        print(
            f"No experts{f' of status {status}' if status else ''} are installed, and none are in {folder}."
        )


@app.command()
def describe(
    name: Annotated[str, typer.Argument(metavar="ID", help="An id, or distribution/id.")],
    as_json: AsJson = False,
) -> None:
    """Show one card, what the router is told, and its weights."""
    from mova_core.cli.on_disk import weight_sources

    record = find_expert(name)
    details = summary(record) | {
        "source": str(record.source) if record.source else None,
        "card": record.card.model_dump(mode="json") if record.card else None,
        "card_hash": record.card.hash if record.card else None,
        "router_is_told": list(record.card.descriptions) if record.card else [],
        "weights": [
            {
                "source": state.source,
                "path": str(state.path) if state.path else None,
                "fetch": state.fetch or None,
            }
            for state in weight_sources(record)
        ],
    }
    if as_json:
        print(json.dumps(details, indent=2))
    else:
        print("\n".join(description(details)))


def summary(record: ExpertRecord) -> dict[str, Any]:
    """What a listing says of an expert; without a card, what only a card can say is None."""
    card = record.card
    return {
        "id": record.id,
        "role": card.role if card else None,
        "status": record.status,
        "distribution": record.distribution,
        "version": record.version,
        "title": card.title if card else None,
        "input": card.input.model_dump(mode="json") if card else None,
        "output": card.features.model_dump(mode="json") if card else None,
        "parameters": card.parameters if card else None,
        "licence": {"code": card.code_licence, "weights": card.weights.licence} if card else None,
        "problem": record.problem or None,
        "hint": record.hint or None,
    }
