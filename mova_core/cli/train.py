"""`mova train`: run one stage of training from its YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mova_core.training.config import StageName

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, see docs/training.md.")]
_Resume = Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")]
_Steps = Annotated[int | None, typer.Option(min=1, help="Other number of steps than the file says.")]
_Output = Annotated[Path | None, typer.Option(help="Other output folder than the file says.")]
_Start = Annotated[Path | None, typer.Option(help="Other checkpoint to start from than the file says.")]


@app.command()
def align(
    config: _Config,
    resume: _Resume = False,
    steps: _Steps = None,
    output: _Output = None,
    start: _Start = None,
) -> None:
    """Teach the fused tokens to name what they show, without passes of the language model."""
    _run("align", config, resume, steps, output, start)


@app.command()
def sft(
    config: _Config,
    resume: _Resume = False,
    steps: _Steps = None,
    output: _Output = None,
    start: _Start = None,
) -> None:
    """Fine-tune adapter, packs and the answering LoRA on questions with answers."""
    _run("sft", config, resume, steps, output, start)


@app.command()
def router(
    config: _Config,
    resume: _Resume = False,
    steps: _Steps = None,
    output: _Output = None,
    start: _Start = None,
) -> None:
    """Train the router LoRA on which experts help, then calibrate it."""
    _run("router", config, resume, steps, output, start)


def _run(
    stage: StageName, path: Path, resume: bool, steps: int | None, output: Path | None, start: Path | None
) -> None:
    from mova_core.errors import ConfigError
    from mova_core.training.config import read_train_config
    from mova_core.training.run import run

    changes: dict[str, Any] = {
        "steps": steps,
        "output": output and str(output),
        "start": start and str(start),
    }
    config = read_train_config(path, **{name: value for name, value in changes.items() if value is not None})
    if config.stage != stage:
        raise ConfigError(
            "this file is for another stage",
            value=f"stage {config.stage} in {path}",
            expected=f"stage {stage}",
            hint=f"Run `mova train {config.stage} {path}`.",
        )
    run(config, resume=resume)
