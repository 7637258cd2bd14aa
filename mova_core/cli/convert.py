"""`mova convert`: a released MoVA checkpoint to one of ours, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mova_core.errors import ConfigError


def command(
    source: Annotated[
        str,
        typer.Argument(
            help="The released checkpoint: a folder, or OWNER/NAME on the hub.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    to_release: Annotated[
        bool, typer.Option("--to-release", help="The other way: SOURCE is a checkpoint of ours.")
    ] = False,
    profile: Annotated[
        str | None,
        typer.Option(help="Profile of the language model, or a TOML file; found by its sizes otherwise."),
    ] = None,
    prompt_from: Annotated[
        Path | None,
        typer.Option(help="Your copy of the released code, to take its sentences from. It is not executed."),
    ] = None,
    text_tokenizer: Annotated[
        str | None, typer.Option(help="Folder, or name on the hub, of the text encoder's tokenizer.")
    ] = None,
    compat: Annotated[
        bool, typer.Option("--compat", help="Route and cut patches just as the released code does.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch on the hub.")] = None,
) -> None:
    """Convert a released MoVA checkpoint, or give its layout back."""
    from mova_core.model.parts.progress import ConsoleProgress

    progress = ConsoleProgress()
    if to_release:
        if profile or prompt_from or text_tokenizer or compat or revision:
            raise ConfigError(
                "these options are for the way from a release", value="--to-release with another option"
            )
        from mova_core.model.release.exporting import export_release

        export_release(Path(source), out, progress=progress)
        print(f"the released layout is in {out}")
        return
    from mova_core.model.release.importing import ImportOptions, import_release

    options = ImportOptions(profile, prompt_from, text_tokenizer, compat)
    import_release(source, out, options, revision=revision, progress=progress)
    print(f'ready: mova ask --model {out} IMAGE "QUESTION"')
