"""How experts are shown to people: a table of all, a page of one. The rows are those that `--json` prints."""

from __future__ import annotations

from typing import Any

from mova_core.cli.table import print_rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the summaries of experts as a table, and below it what is wrong with any."""
    head = ("ID", "ROLE", "STATUS", "FROM", "INPUT", "OUTPUT", "PARAMETERS", "LICENCE")
    print_rows(head, [_cells(row) for row in rows])
    for row in rows:
        if row["problem"]:
            print(f"{row['id']} ({row['distribution']}): {row['problem']}. {row['hint'] or ''}")


def _cells(row: dict[str, Any]) -> list[str]:
    licences = dict.fromkeys((row["licence"] or {}).values())
    return [
        row["id"],
        row["role"] or "?",
        row["status"],
        f"{row['distribution']} {row['version']}".strip(),
        _input(row["input"]) if row["input"] else "?",
        _output(row["output"]) if row["output"] else "?",
        _count(row["parameters"]) if row["parameters"] is not None else "?",
        ", ".join(licences) or "?",
    ]


def _input(stream: dict[str, Any]) -> str:
    if stream["kind"] == "patches":
        return f"{stream['patches']} patches of {stream['patch_size']} px, {stream['fit']}"
    height, width = stream["size"]
    return f"{height}x{width} px, {stream['fit']}"


def _output(features: dict[str, Any]) -> str:
    grid = features["grid"]
    return f"{features['channels']} on {grid if grid == 'dynamic' else 'x'.join(map(str, grid))}"


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def description(details: dict[str, Any]) -> list[str]:
    """The lines that tell all that is known of one expert."""
    places = [
        f"{row['source']}  {row['path'] or 'not on disk: ' + row['fetch']}" for row in details["weights"]
    ]
    return [
        f"{details['id']}: {details['title'] or 'no readable card'}",
        "",
        *(f"{name:<16}{value}" for name, value in _facts(details).items() if value),
        *_listed("The router is told one of:", details["router_is_told"]),
        *_listed("Questions it helps with:", details["card"]["example_questions"] if details["card"] else []),
        *_listed("Weights, from the first that is on disk:", places),
    ]


def _facts(details: dict[str, Any]) -> dict[str, Any]:
    facts = {
        "status": details["status"],
        "problem": details["problem"],
        "hint": details["hint"],
        "from": f"{details['distribution']} {details['version']}".strip(),
        "card": details["source"],
        "card hash": details["card_hash"],
    }
    if (card := details["card"]) is None:
        return facts
    stream = {name: value for name, value in card["input"].items() if value is not None}
    return facts | {
        "role": card["role"],
        "factory": card["factory"],
        "isolation": card["isolation"],
        "input": ", ".join(f"{name} {_plain(value)}" for name, value in stream.items()),
        "output": _output(card["features"]),
        "parameters": _count(card["parameters"]),
        "memory": ", ".join(f"{size:g} MiB in {dtype}" for dtype, size in card["memory_mb"].items()),
        "domains": ", ".join(card["domains"]),
        "paper": card["paper"],
        "code licence": card["code_licence"],
        "weights licence": card["weights"]["licence"],
        "notice": card["weights"]["notice"],
        "remark": card["weights"]["remark"],
        "revision": card["weights"]["revision"],
        "sha256": card["weights"]["sha256"],
    }


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_plain(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _listed(title: str, items: list[str]) -> list[str]:
    return ["", title, *(f"  - {item}" for item in items)] if items else []


def print_routability(rows: list[dict[str, Any]]) -> None:
    """Print how often each expert is routed to, and which sibling is taken for it."""
    head = ("ID", "OWN QUESTIONS", "OTHERS' QUESTIONS", "CHOSEN IN ITS PLACE")
    print_rows(head, [_routed(row) for row in rows])


def _routed(row: dict[str, Any]) -> list[str]:
    sibling = f"{row['confused_with']} ({row['confused']})" if row["confused_with"] else "-"
    return [row["expert"], _share(row["own"]), _share(row["others"]), sibling]


def _share(share: dict[str, Any]) -> str:
    if share["share"] is None:
        return "none given"
    return f"{share['share']:.0%} ({share['chosen']} of {share['asked']})"
