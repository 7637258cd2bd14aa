"""What mova-nano adds to the command line: `mova nano`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from mova_core.hookspecs import hookimpl

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make mova-nano's own experts.")


@app.callback()
def _group() -> None:
    """Make mova-nano's own experts."""


@app.command()
def experts(
    recipe: Annotated[Path, typer.Argument(help="YAML file with the passes of each expert.")],
    only: Annotated[str | None, typer.Option(help="Train just this one.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/nano/experts"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
) -> None:
    """Train the small experts on drawn pictures; weights go to OUTPUT/<id>.safetensors."""
    from mova_core.errors import ConfigError
    from mova_core.model.parts.fetch import part_path
    from mova_nano.expert_training import read_passes, train_expert

    passes = read_passes(recipe)
    if only is not None and only not in passes:
        raise ConfigError("the recipe has no such expert", value=only, expected=", ".join(passes))
    backbone = part_path("efficientnet-lite0") / "model.safetensors"
    for expert in [only] if only else passes:
        print(
            f"wrote {train_expert(expert, passes[expert], backbone=backbone, output=output, resume=resume)}"
        )


@hookimpl
def mova_commands() -> Mapping[str, typer.Typer]:
    """Adds `mova nano`."""
    return {"nano": app}
