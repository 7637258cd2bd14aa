"""`mova plan`: what of a model goes where, before it is loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mova_core.cli.loading import Dtype, Quantize
from mova_core.cli.table import print_rows

if TYPE_CHECKING:
    from mova_core.model.placement import MemoryPlan, RouteSize

DOES_NOT_FIT = 1


def command(
    model: Annotated[
        str, typer.Argument(help="An installed model, or a checkpoint directory.")
    ] = "mova-nano",
    gpus: Annotated[
        str | None,
        typer.Option(help="A size for each GPU: 24GB, 2x24GB or 80GB,24GB. Without it, this machine's."),
    ] = None,
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    context: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of the longest conversation, images included. [default: 4096]"),
    ] = None,
    working: Annotated[
        str | None,
        typer.Option(help="Memory for forward passes of encoders. [default: 1GB in 16 bits, 2GB in 32]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what goes on which device, what is left for experts, and what would fit if this does not."""
    from mova_core.model.gpus import parse_gpus, parse_size
    from mova_core.model.planning import plan_memory, ways_out

    if gpus is not None:
        parse_gpus(gpus)  # what is wrong with it is said before files are read
    options: dict[str, Any] = {"context": context, "working": parse_size(working) if working else None}
    plan = plan_memory(model, gpus=gpus, dtype=dtype, quantization=quantize, **options)
    out = [] if plan.fits else [said for said, _ in ways_out(plan, **options)]
    if as_json:
        print(json.dumps(_plain(plan, out), indent=2))
    else:
        _show(plan, out)
    if not plan.fits:
        raise typer.Exit(DOES_NOT_FIT)


def _show(plan: MemoryPlan, out: list[str]) -> None:
    sizes = plan.sizes
    bits = f", language model in {sizes.quantization}" if sizes.quantization else ""
    print(f"{plan.model} in {sizes.dtype}{bits}\n")
    rows = []
    for number, share in enumerate(plan.shares):
        rows.append((share.device.name, _size(share.device.nbytes), "", ""))
        rows += [("", _size(item.nbytes), item.name, item.why) for item in share.items if item.nbytes]
        rest = "left for experts: the pool's budget" if number == 0 else "left"
        rows.append(("", _size(abs(share.free)), "lacking" if share.free < 0 else rest, ""))
    if plan.offloaded:
        held = sum(piece.nbytes for piece in plan.offloaded)
        where = "disk" if plan.elsewhere == "disk" else "memory"
        rows.append(
            (where, _size(held), f"language model, {len(plan.offloaded)} pieces", "until they compute")
        )
    rows += [
        ("disk", _size(nbytes), f"expert {id}", "until it is routed to")
        for id, nbytes in sorted(sizes.experts.items())
    ]
    print_rows(("where", "size", "what", ""), rows)
    print()
    for line in (*_experts(plan), *_verdict(plan, out)):
        print(line)


def _experts(plan: MemoryPlan) -> list[str]:
    if not plan.sizes.experts:
        return ["The pool is empty."]
    stay = "all" if len(plan.together) == len(plan.sizes.experts) else ", ".join(plan.together) or "none"
    return [f"loaded side by side: {stay}", *(_route(route) for route in plan.routes)]


def _route(route: RouteSize) -> str:
    count = f"route of {len(route.experts)}: at worst {_size(route.nbytes)} ({', '.join(route.experts)})"
    if route.together:
        return f"{count}, in memory together"
    if route.runs:
        return f"{count}, in turn: loaded again for each such question"
    return f"{count}, which cannot run"


def _verdict(plan: MemoryPlan, out: list[str]) -> list[str]:
    if plan.fits:
        return ["It fits."]
    said = []
    short = [f"{share.device.name} lacks {_size(-share.free)}" for share in plan.shares if share.free < 0]
    if short:
        said.append(f"It does not fit: {', '.join(short)}.")
    elif plan.offloaded and plan.sizes.quantization:
        said.append("It does not fit: quantised layers cannot be kept elsewhere until they compute.")
    elif plan.offloaded:
        said.append("It does not fit; it would run, slowly, with layers brought in one by one.")
    if plan.never and not short:
        said.append(f"No room, even alone, for the experts {', '.join(plan.never)}: routed to, they fail.")
    if out:
        said.append(f"What would fit: {'; '.join(out)}.")
    said.append(f"On one device, all of it takes {_size(plan.needed)}.")
    return said


def _size(nbytes: int) -> str:
    from mova_core.model.parts import readable_size

    return readable_size(nbytes)


def _plain(plan: MemoryPlan, out: list[str]) -> dict[str, Any]:
    return {
        "model": plan.model,
        "dtype": plan.sizes.dtype,
        "quantization": plan.sizes.quantization,
        "fits": plan.fits,
        "loads": plan.loads,
        "devices": [
            {
                "device": share.device.name,
                "bytes": share.device.nbytes,
                "holds": [{"what": i.name, "bytes": i.nbytes, "why": i.why} for i in share.items],
                "free": share.free,
            }
            for share in plan.shares
        ],
        "offloaded": {piece.name: plan.elsewhere for piece in plan.offloaded},
        "device_map": plan.device_map,
        "expert_budget": plan.budget,
        "experts": dict(sorted(plan.sizes.experts.items())),
        "together": list(plan.together),
        "never": list(plan.never),
        "routes": [
            {"experts": list(r.experts), "bytes": r.nbytes, "together": r.together, "runs": r.runs}
            for r in plan.routes
        ],
        "would_fit": out,
        "needed_on_one_device": plan.needed,
    }
