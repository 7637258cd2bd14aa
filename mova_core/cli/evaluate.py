"""`mova eval`: accuracy of a model under several ways of routing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mova_core.cli.batch.journal import Journal
    from mova_core.evaluation.ablation import Item, Outcome

CACHE_BYTES = 4 * 2**30
"""Features are kept between modes, so that each encoder runs once for each picture."""


def command(
    model: Annotated[str, typer.Option(help="An installed model, or a checkpoint directory.")] = "mova-nano",
    items: Annotated[
        str, typer.Option(help="Where questions come from: `module:function(tasks, count)`, giving samples.")
    ] = "mova_nano.data.training:held_out",
    tasks: Annotated[str, typer.Option(help="Task families, with commas; empty for all.")] = "",
    count: Annotated[int, typer.Option(min=1, help="Questions a task.")] = 300,
    modes: Annotated[str, typer.Option(help="Ways of routing, with commas.")] = "learned,none,all,random",
    batch: Annotated[int, typer.Option(min=1, help="Questions at once.")] = 8,
    output: Annotated[
        Path | None,
        typer.Option(help="JSON file for hits and totals; a run that was stopped goes on from its journal."),
    ] = None,
) -> None:
    """Measure a model on held-out data."""
    from mova_core.errors import InputError
    from mova_core.evaluation.ablation import Item, check_modes, run_mode
    from mova_core.evaluation.report import accuracy_table, figures, routing_table
    from mova_core.model.load import load
    from mova_core.training.samples import build_samples

    chosen = check_modes(modes.split(","))  # before an hour is spent on the first of them
    if output is not None and output.is_dir():
        raise InputError(
            "the output is a folder", value=str(output), expected="a file", hint="Name another --output."
        )
    samples = build_samples(items, tasks=[t for t in tasks.split(",") if t], count=count)
    asked = [
        Item(sample.image, *sample.turns[0], sample.experts, sample.task, sample.plain)
        for sample in (samples[i] for i in range(len(samples)))
    ]
    mova = load(model, cache_bytes=CACHE_BYTES, progress=lambda message: print(message, file=sys.stderr))
    outcomes: dict[str, list[Outcome]] = {}
    with ExitStack() as stack:
        journal = None
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            settings = {
                "modes": modes,  # random routes are like the learned ones, where there are any
                "items": items,
                "tasks": tasks,
                "count": count,
                "router": dict(mova.model.config.router),
            }
            journal = stack.enter_context(
                _journal(output, {"model": model, "core": mova.model.config.fingerprint, **settings})
            )
        for mode in chosen:
            outcomes[mode] = run_mode(
                mova,
                asked,
                mode,
                learned=outcomes.get("learned"),
                batch=batch,
                done=list(_done(journal, mode, asked)),
                keep=partial(_keep, journal, mode),
                tell=partial(_tell, mode, len(asked)),
            )
            print(file=sys.stderr)
        if output is not None and journal is not None:
            partial_file = output.with_name(f"{output.name}.partial")
            partial_file.write_text(json.dumps(figures(outcomes), indent=1) + "\n", encoding="utf-8")
            partial_file.replace(output)
            journal.discard()
            print(f"wrote {output}", file=sys.stderr)
    print(accuracy_table(outcomes))
    if "learned" in outcomes:
        print("\n" + routing_table(outcomes["learned"]))


def _journal(output: Path, settings: Mapping[str, Any]) -> Journal:
    """What has been answered for this output, which is all that is lost without it."""
    from mova_core.cli.batch.journal import Journal
    from mova_core.cli.batch.output import journal_path

    return Journal(journal_path(output), settings)


def _done(journal: Journal | None, mode: str, items: Sequence[Item]) -> Iterator[Outcome]:
    """Outcomes of the first items, as far as they are written down."""
    from mova_core.evaluation.ablation import Outcome

    for place, item in enumerate(items):
        if journal is None or f"{mode}/{place}" not in journal:
            return
        found = journal.result(f"{mode}/{place}")
        yield Outcome(item, found["answer"], tuple(found["route"]))


def _keep(journal: Journal | None, mode: str, place: int, outcome: Outcome) -> None:
    if journal is not None:
        journal.add(f"{mode}/{place}", {"answer": outcome.answer, "route": outcome.route})


def _tell(mode: str, total: int, done: int) -> None:
    print(f"\r{mode}: {done} of {total}", end="", file=sys.stderr, flush=True)
