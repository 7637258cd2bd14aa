"""`mova ask`: a question about one or more pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mova_core.cli.batch.run import BatchOptions, answer_file
from mova_core.cli.loading import Compile, Device, Dtype, ExpertDevice, Quantize, load_model_for_command
from mova_core.cli.routes import ROUTERS, choose_router, shown_probabilities
from mova_core.cli.timeline import timeline_lines
from mova_core.cli.traces import plain_trace
from mova_core.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from mova_core.model.answer import Answer
    from mova_core.model.assistant import Mova


def command(
    image: Annotated[Path | None, typer.Argument(help="A picture.", show_default=False)] = None,
    question: Annotated[str | None, typer.Argument(help="The question.", show_default=False)] = None,
    more: Annotated[
        list[Path] | None, typer.Option("--image", help="A further picture; may be repeated.")
    ] = None,
    batch: Annotated[
        Path | None, typer.Option("--batch", help="A JSON Lines file of questions to answer together.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where the answers of --batch go; FILE.answers.jsonl by default.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Questions of --batch in one pass.")] = None,
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
    device: Device = "auto",
    expert_device: ExpertDevice = None,
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    compile: Compile = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Answer a question about a picture, or a file of questions with --batch."""

    def load() -> Mova:
        return load_model_for_command(
            model,
            device=device,
            expert_device=expert_device,
            dtype=dtype,
            quantize=quantize,
            compile=compile,
            on_expert_error="skip" if skip_failing else "error",
            quiet=as_json,
        )

    route = None if experts is None else [id.strip() for id in experts.split(",") if id.strip()]
    if batch is not None:
        _check_batch({"IMAGE": image, "QUESTION": question, "--image": more, "--explain": explain})
        options = BatchOptions(
            questions=batch,
            output=output,
            checkpoint=_checkpoint(model),
            router=router,
            experts=None if route is None else tuple(route),
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            numbers={"dtype": dtype, "quantize": quantize or "no"},
            quiet=as_json,
        )
        raise typer.Exit(0 if answer_file(options, load) else 1)
    images, asked = _check_alone(image, question, more, {"--output": output, "--batch-size": batch_size})
    _checkpoint(model)
    mova = load()
    chosen = choose_router(router, mova) if route is None else None
    answer = mova.ask(
        images, asked, experts=route, router=chosen, explain=explain, max_new_tokens=max_new_tokens
    )
    maps = _write_maps(answer, images, heat_maps, mova) if explain else []
    if as_json:
        print(json.dumps(_plain(answer, maps), indent=2))
    else:
        _show(answer, explain, maps)


def _checkpoint(model: str) -> Path:
    """Where a model is, which is asked once everything that is quick to check was."""
    from mova_core.model.load import find_checkpoint

    return find_checkpoint(model)


def _check_batch(others: Mapping[str, object]) -> None:
    given = [name for name, value in others.items() if value]
    if given:
        raise InputError(
            "a batch takes its questions from its file",
            value=f"{' and '.join(given)} with --batch",
            expected="--batch FILE.jsonl alone",
            hint="Write the question into the file, or leave --batch out.",
        )


def _check_alone(
    image: Path | None, question: str | None, more: list[Path] | None, others: Mapping[str, object]
) -> tuple[tuple[Image, ...], str]:
    """Pictures and question; what is wrong with them is said before anything heavy is imported."""
    from mova_core.model.given import check_question, load_images

    if given := [name for name, value in others.items() if value is not None]:
        raise InputError(
            f"{given[0]} goes with --batch only", hint="Leave it out, or give --batch FILE.jsonl."
        )
    if image is None or question is None:
        raise InputError(
            "a question about a picture is missing",
            expected="IMAGE and QUESTION, or --batch FILE.jsonl",
            hint='Example: mova ask photo.jpg "What is this?"',
        )
    return load_images([image, *(more or [])]), check_question(question)


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
        print(*timeline_lines(answer), sep="\n")
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
        "images": [plain_trace(trace) for trace in answer.images],
        "skipped": dict(answer.skipped),
        "seconds": dict(answer.seconds),
        "heat_maps": [str(path) for path in maps],
    }
