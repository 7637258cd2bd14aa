"""`mova route`: which experts a question would go to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mova_core.cli.loading import Compile, Device, Dtype, Quantize, load_model_for_command
from mova_core.cli.routes import ROUTERS, choose_router

if TYPE_CHECKING:
    from mova_core.cards.card import ExpertCard


def command(
    image: Annotated[Path, typer.Argument(help="A picture.", show_default=False)],
    question: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    model: Annotated[str, typer.Option(help="An installed model, or a checkpoint directory.")] = "mova-nano",
    pool: Annotated[
        Literal["model", "installed"],
        typer.Option(
            help="Offer the model's experts, or every installed one, with a pack for the model or without."
        ),
    ] = "model",
    router: Annotated[str, typer.Option(help=f"Who routes: {', '.join(ROUTERS)}.")] = "learned",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    compile: Compile = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which experts a question would go to; no expert is run."""
    from mova_core.model.given import check_question, load_images

    picture = load_images(image)[0]  # wrong input is said before anything heavy is imported
    check_question(question)
    from mova_core.model.load import find_checkpoint

    find_checkpoint(model)
    mova = load_model_for_command(
        model, device=device, dtype=dtype, quantize=quantize, compile=compile, quiet=as_json
    )
    offered = _installed() if pool == "installed" else list(mova.pool)
    route = mova.route(picture, question, pool=offered, router=choose_router(router, mova))
    packs = set(mova.model.adapter.pack_ids)
    if as_json:
        print(
            json.dumps(
                {
                    "route": list(route.experts),
                    "router": route.router,
                    "probabilities": dict(route.probabilities),
                    "no_pack": sorted({card.id for card in offered} - packs),
                },
                indent=2,
            )
        )
        return
    for card in sorted(offered, key=lambda card: -route.probabilities.get(card.id, 0.0)):
        mark = "*" if card.id in route.experts else " "
        note = "" if card.id in packs else f"   no pack for {model}: it can be routed to, but does not answer"
        print(f"{mark} {route.probabilities.get(card.id, 0.0):.2f}  {card.id}  {card.title}{note}")
    print(f"route   {route}")


def _installed() -> list[ExpertCard]:
    from mova_core.cards.discovery import discover

    return [r.card for r in discover() if r.status == "ok" and r.card is not None and r.card.role == "expert"]
