"""Options of commands that load a model, and the loading itself."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from mova_core.model.assistant import Mova

Device = Annotated[
    str, typer.Option("--device", help="Where to run: cpu, cuda, cuda:1, or auto for the first GPU there is.")
]
ExpertDevice = Annotated[
    str | None,
    typer.Option("--expert-device", help="Where the experts run, such as cuda:1, if not beside the model."),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype", help="auto (what the device computes fastest), float32, bfloat16 (bf16) or float16 (fp16)."
    ),
]
Quantize = Annotated[
    Literal["8bit", "4bit"] | None,
    typer.Option("--quantize", help="The language model's layers in 8 or 4 bits (needs bitsandbytes)."),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile with torch.compile: pays off only where many questions follow."),
]


def load_model_for_command(
    model: str,
    *,
    device: str = "auto",
    expert_device: str | None = None,
    dtype: str = "auto",
    quantize: str | None = None,
    compile: bool = False,
    on_expert_error: Literal["error", "skip"] = "error",
    quiet: bool = False,
) -> Mova:
    """The model that a command works with; on a GPU its experts stay within what a plan leaves to them.

    Args:
        model: an installed model, or a checkpoint directory.
        device, expert_device, dtype, quantize, compile: as the options of this module.
        on_expert_error: as for `mova_core.load`.
        quiet: do not tell of loading on stderr.

    Raises:
        MovaError: as for `mova_core.load`.
    """
    from mova_core.model.devices import find_device
    from mova_core.model.load import load

    place = find_device(device)

    def tell(message: str) -> None:
        if not quiet:
            print(message, file=sys.stderr)

    return load(
        model,
        device=str(place),
        expert_device=expert_device,
        memory_budget="auto" if place.type != "cpu" and expert_device is None else None,
        dtype=dtype,
        quantization=quantize,
        compile=compile,
        on_expert_error=on_expert_error,
        progress=tell,
    )
