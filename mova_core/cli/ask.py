"""`mova ask`: a question about one or more pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mova_core.cli.routes import ROUTERS, choose_router, shown_probabilities

if TYPE_CHECKING:
    from mova_core.model.answer import Answer, ImageTrace


def command(
    image: Annotated[Path, typer.Argument(help="A picture.", show_default=False)],
    question: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    more: Annotated[
        list[Path] | None, typer.Option("--image", help="A further picture; may be repeated.")
    ] = None,
    model: Annotated[str, typer.Option(help="An installed model, or a checkpoint directory.")] = "mova-nano",
    experts: Annotated[
        str | None, typer.Option(help="A route of your own: ids with commas, or an empty string for none.")
    ] = None,
    router: Annotated[str, typer.Option(help=f"Who routes: {', '.join(ROUTERS)}.")] = "learned",
    explain: Annotated[
        bool, typer.Option("--explain", help="Say why, and write heat maps of attention.")
    ] = False,
    heat_maps: Annotated[Path, typer.Option(help="Folder for the heat maps of --explain.")] = Path(
        "mova-explain"
    ),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    skip_failing: Annotated[
        bool, typer.Option("--skip-failing", help="Answer without routed experts that fail.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Answer a question about a picture."""
    from mova_core.model.assistant import load_images
    from mova_core.model.load import find_checkpoint
    from mova_core.model.processing import check_question

    images = load_images([image, *(more or [])])  # wrong input is said before anything heavy is loaded
    check_question(question)
    find_checkpoint(model)
    mova = _load(model, skip_failing, quiet=as_json)
    route = None if experts is None else [id.strip() for id in experts.split(",") if id.strip()]
    chosen = choose_router(router, mova) if route is None else None
    answer = mova.ask(
        images, question, experts=route, router=chosen, explain=explain, max_new_tokens=max_new_tokens
    )
    maps = _write_maps(answer, images, heat_maps, mova) if explain else []
    if as_json:
        print(json.dumps(_plain(answer, maps), indent=2))
    else:
        _show(answer, explain, maps)


def _load(model: str, skip_failing: bool, quiet: bool) -> Any:
    from mova_core.model.load import load

    def tell(message: str) -> None:
        if not quiet:
            print(message, file=sys.stderr)

    return load(model, on_expert_error="skip" if skip_failing else "error", progress=tell)


def _show(answer: Answer, explain: bool, maps: list[Path]) -> None:
    for number, trace in enumerate(answer.images, start=1):
        prefix = f"image {number}: " if len(answer.images) > 1 else ""
        print(f"{prefix}route   {trace.route}   ({shown_probabilities(trace.route)})")
        for id, weights in trace.gates.items():
            print(
                f"{prefix}gate    {id}   "
                + "  ".join(f"block {b} {w:.2f}" for b, w in enumerate(weights, start=1))
            )
    for id, reason in answer.skipped.items():
        print(f"skipped {id}: {reason}", file=sys.stderr)
    if explain:
        steps = "  ".join(f"{step} {1000 * seconds:.0f} ms" for step, seconds in answer.seconds.items())
        print(f"time    {steps}")
        for path in maps:
            print(f"heat    {path}")
    print(f"answer  {answer.text}")


def _write_maps(answer: Answer, images: tuple[Any, ...], folder: Path, mova: Any) -> list[Path]:
    from mova_core.model.explain import write_heat_maps

    padded = mova.processor.stream.fit == "pad"
    several = len(images) > 1
    return [
        path
        for number, (trace, image) in enumerate(zip(answer.images, images, strict=True), start=1)
        for path in write_heat_maps(
            trace, image, folder / f"image-{number}" if several else folder, padded=padded
        )
    ]


def _plain(answer: Answer, maps: list[Path]) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "images": [_plain_trace(trace) for trace in answer.images],
        "skipped": dict(answer.skipped),
        "seconds": dict(answer.seconds),
        "heat_maps": [str(path) for path in maps],
    }


def _plain_trace(trace: ImageTrace) -> dict[str, Any]:
    return {
        "route": list(trace.route.experts),
        "router": trace.route.router,
        "probabilities": dict(trace.route.probabilities),
        "gates": {id: list(weights) for id, weights in trace.gates.items()},
    }
