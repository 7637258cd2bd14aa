"""`mova experts check`: what speaks against an expert, by its card, its code, and a model's router."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mova_core.cards.discovery import discover, user_expert
from mova_core.cards.records import USER, ExpertRecord
from mova_core.cards.resolve import find_expert

if TYPE_CHECKING:
    from mova_core.testing.findings import Finding
    from mova_core.testing.routability import Routability, Share


def check(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[ID|PATH]", help="An expert, a card file or a project; all by default."),
    ] = None,
    load: Annotated[
        bool, typer.Option("--load", help="Also import and try the code, with its weights where they are.")
    ] = False,
    route: Annotated[
        bool, typer.Option("--route", help="Also measure how a model's router chooses among the experts.")
    ] = False,
    model: Annotated[
        str, typer.Option(help="For --route: an installed model or a checkpoint.")
    ] = "mova-nano",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check experts and say what to mend. Exits with 1 if there is anything."""
    with _importable(target) as records:
        findings = _findings(records, load)
        routes = _routes(records, model) if route else None
    if as_json:
        report = {
            "experts": [record.id for record in records],
            "findings": [asdict(finding) for finding in findings],
            "routing": None if routes is None else [_row(each) for each in routes],
        }
        print(json.dumps(report, indent=2))
    else:
        _print(records, findings, routes, model)
    if findings:
        raise typer.Exit(1)


@contextmanager
def _importable(target: str | None) -> Iterator[list[ExpertRecord]]:
    """The experts to check; those of a project can be imported meanwhile, installed or not."""
    from mova_core.cards.project import import_roots, project_experts

    installed = discover()
    named = any(target in (record.id, record.qualified) for record in installed)
    if target is None:
        yield [record for record in installed if record.status != "disabled"]
    elif named or not Path(target).exists():
        yield [find_expert(target, installed)]
    elif Path(target).is_file():
        yield [user_expert(Path(target).resolve())]
    else:
        before = list(sys.path)
        sys.path[:0] = map(str, import_roots(Path(target)))
        try:
            yield project_experts(Path(target))
        finally:
            sys.path[:] = before


def _findings(records: Sequence[ExpertRecord], load: bool) -> list[Finding]:
    from mova_core.testing.card_checks import card_findings
    from mova_core.testing.findings import Finding

    findings: list[Finding] = []
    for record in records:
        if record.status != "ok":
            findings.append(Finding(record.id, f"{record.status}: {record.problem}", record.hint))
        if record.card is None:
            continue
        findings += card_findings(record.card)
        absent = _absent(record)
        findings += absent
        if load and record.status in ("ok", "conflict"):
            findings += _tried(record, with_weights=not absent)
    return findings + _listing(records)


def _absent(record: ExpertRecord) -> list[Finding]:
    """That an expert's weights are not on this machine, if so."""
    from mova_core.cli.on_disk import weight_sources
    from mova_core.testing.findings import Finding

    states = weight_sources(record)
    if record.card is None or not states or any(state.path for state in states):
        return []
    first, remark = states[0], record.card.weights.remark
    mend = first.fetch
    if first.source.startswith("package:") and record.source is not None:
        # Whoever checks it is likely to be its author, whose card may say how weights are made.
        mend = f"write {record.source.parent / first.source.removeprefix('package:')}"
        mend += f" ({remark})" if remark else ""
        mend += f", or {first.fetch}" if record.distribution != USER else ""
    return [Finding(record.id, "weights are not on disk", mend)]


def _tried(record: ExpertRecord, *, with_weights: bool) -> list[Finding]:
    from mova_core.testing.trial import trial_findings

    with redirect_stdout(sys.stderr):  # what a plugin prints is no output of ours
        return trial_findings(record, with_weights=with_weights)


def _listing(records: Sequence[ExpertRecord]) -> list[Finding]:
    """That listing experts imports what it should not; said of those whose package it is, or else of all."""
    from mova_core.testing.findings import Finding
    from mova_core.testing.listing import imported_by_listing

    packages = {r.card.factory.partition(":")[0].partition(".")[0]: r.id for r in records if r.card}
    return [
        Finding(
            packages.get(name, "all experts"),
            f"listing experts imports {name}",
            "keep a top-level `__init__.py` empty, and look for `.pth` files that import",
        )
        for name in imported_by_listing(packages)
    ]


def _routes(records: Sequence[ExpertRecord], model: str) -> list[Routability]:
    from PIL import Image

    from mova_core.model.load import load
    from mova_core.testing.routability import GREY, SIDE, routability

    def say(message: str) -> None:
        print(message, file=sys.stderr)

    mova = load(model, progress=say)
    usable = [record for record in (*discover(), *records) if record.status in ("ok", "conflict")]
    cards = {r.id: r.card for r in usable if r.card is not None and r.card.role == "expert"}
    pool = [cards[id] for id in sorted(cards)]
    picture = Image.new("RGB", (SIDE, SIDE), GREY)
    wanted = [record.id for record in records if record.id in cards]
    say(f"asking {sum(len(card.example_questions) for card in pool)} questions of {len(pool)} experts")
    return routability(lambda question: mova.route(picture, question, pool=pool), pool, wanted)


def _row(each: Routability) -> dict[str, Any]:
    def share(part: Share) -> dict[str, Any]:
        return {"chosen": part.chosen, "asked": part.asked, "share": part.value}

    return {
        "expert": each.expert,
        "own": share(each.own),
        "others": share(each.others),
        "confused_with": each.confused_with,
        "confused": each.confused,
    }


def _print(
    records: Sequence[ExpertRecord],
    findings: Sequence[Finding],
    routes: Sequence[Routability] | None,
    model: str,
) -> None:
    for finding in findings:
        print(finding)
    counted = f"{len(records)} expert{'s' * (len(records) != 1)} checked"
    print(f"{counted}: " + (f"{len(findings)} to mend." if findings else "nothing to mend."))
    if routes:
        from mova_core.cli.expert_text import print_routability

        print(f"\nChosen by the router of {model}, for example questions asked of an even grey picture:")
        print_routability([_row(each) for each in routes])
