"""`python -m benchmarks`: runs the cases, prints their table, and writes `results.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.adapter import adapter, bfloat16
from benchmarks.batch import batch
from benchmarks.commands import ask_batch, start_up
from benchmarks.machine import facts, threads
from benchmarks.progress import PROGRESS
from benchmarks.results import Row, show, write
from benchmarks.routing import routing
from benchmarks.sizes import FULL, QUICK, Sizes

CASES: dict[str, Callable[[Sizes], Iterator[Row]]] = {
    "start-up": start_up,
    "routing": routing,
    "adapter": adapter,
    "batch": batch,
    "bfloat16": bfloat16,
    "ask-batch": ask_batch,
}
RESULTS = Path(__file__).with_name("results.json")


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes, in under a minute.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(CASES)}; repeat it.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file to write; results.json of a full run.")
    ] = None,
) -> None:
    """Compare MoVA's speed with a plain reference and with what this machine's arithmetic allows."""
    if unknown := set(only or ()) - CASES.keys():
        raise typer.BadParameter(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    torch.set_num_threads(threads())
    sizes = QUICK if quick else FULL
    console = Console(width=120)
    console.print(*facts(), f"sizes    {sizes}", sep="\n", highlight=False, soft_wrap=True)
    rows = run([name for name in CASES if only is None or name in only], sizes)
    if quick:  # fewer blocks and samples have ratios of their own
        rows = [replace(row, target=(None, None)) for row in rows]
    show(rows, console)
    # Only a run of everything at full size may stand for the project's figures.
    path = output or (None if quick or only else RESULTS)
    if path:
        write(rows, path)
        console.print(f"written  {path}", highlight=False)


def run(names: list[str], sizes: Sizes) -> list[Row]:
    """The rows of some cases."""
    rows: list[Row] = []
    for name in names:
        PROGRESS.start(name)
        torch.manual_seed(0)
        with torch.inference_mode():
            rows += CASES[name](sizes)
    PROGRESS.stop()
    return rows


if __name__ == "__main__":
    typer.run(main)
