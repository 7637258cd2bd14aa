"""`mova eval`: accuracy of a model under several ways of routing."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

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
    output: Annotated[Path | None, typer.Option(help="JSON file for hits and totals.")] = None,
) -> None:
    """Measure a model on held-out data."""
    from mova_core.evaluation.ablation import Item, Outcome, check_modes, run_mode
    from mova_core.evaluation.report import accuracy_table, figures, routing_table
    from mova_core.model.load import load
    from mova_core.training.samples import build_samples

    chosen = check_modes(modes.split(","))  # before an hour is spent on the first of them
    samples = build_samples(items, tasks=[t for t in tasks.split(",") if t], count=count)
    asked = [
        Item(sample.image, *sample.turns[0], sample.experts, sample.task, sample.plain)
        for sample in (samples[i] for i in range(len(samples)))
    ]
    mova = load(model, cache_bytes=CACHE_BYTES, progress=lambda message: print(message, file=sys.stderr))
    outcomes: dict[str, list[Outcome]] = {}
    for mode in chosen:
        outcomes[mode] = run_mode(
            mova,
            asked,
            mode,
            learned=outcomes.get("learned"),
            batch=batch,
            tell=partial(_tell, mode, len(asked)),
        )
        print(file=sys.stderr)
    print(accuracy_table(outcomes))
    if "learned" in outcomes:
        print("\n" + routing_table(outcomes["learned"]))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(figures(outcomes), indent=1) + "\n", encoding="utf-8")
        print(f"\nwrote {output}", file=sys.stderr)


def _tell(mode: str, total: int, done: int) -> None:
    print(f"\r{mode}: {done} of {total}", end="", file=sys.stderr, flush=True)
