"""`mova experts new`, `add` and `check`: for those who write experts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mova_core.cli.check import check
from mova_core.errors import ConfigError

if TYPE_CHECKING:
    from mova_core.hookspecs import HookProblem

PROVIDERS = {
    "timm": "mova-expert-timm",
    "hf": "mova-expert-transformers",
    "file": "mova-expert-transformers",
}
"""Distribution that makes cards of the sources of each scheme."""

app = typer.Typer()


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Id of the expert.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Folder to put the project into.")] = Path("."),
) -> None:
    """Write a complete plugin project for a new expert, with tests that pass."""
    from mova_core.testing.project import new_project

    folder = new_project(name, output)
    package = f"mova_expert_{name.replace('-', '_')}"
    print(f"wrote {folder}")
    print(f"next    cd {folder}")
    print("        pip install -e '.[test]'")
    print("        python -m pytest")
    print(f"        python -m {package}.train PICTURES   # a folder of pictures; writes the weights")
    print(f"        mova experts check {name} --load")


app.command()(check)


@app.command()
def add(
    source: Annotated[
        str, typer.Argument(help="timm:NAME, hf:OWNER/NAME, or a folder of weights.", show_default=False)
    ],
    description: Annotated[
        list[str],
        typer.Option(help="What the router is told; several times, in other words.", show_default=False),
    ],
    id: Annotated[str | None, typer.Option(help="Name of the expert.")] = None,
    title: Annotated[str | None, typer.Option(help="The expert in a few words.")] = None,
    question: Annotated[
        list[str] | None, typer.Option(help="A question it helps with; several times.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace your card of that id.")] = False,
) -> None:
    """Make an expert of published weights: writes a card of yours, no code is needed."""
    from mova_core.cards.manifest import read_expert_card
    from mova_core.cards.user_cards import write_user_card
    from mova_core.hookspecs import load_hooks

    if not all(words.strip() for words in (*description, *(question or ()))):
        raise ConfigError("a description or question is blank", expected="some words")
    place = _place(source)
    hooks = load_hooks()
    document = hooks.card(
        source=place, id=id, descriptions=description, example_questions=question or [], title=title
    )
    if document is None:
        raise _nobody(place, hooks.problems)
    path = write_user_card(document, force=force)
    made = read_expert_card(path).id
    print(f"wrote {path}")
    print(f"next    mova experts describe {made}")
    print(f"        mova experts check {made} --load")
    print(f'        mova route IMAGE "{(question or ["QUESTION"])[0]}" --pool installed')


def _place(source: str) -> str:
    """The source as hooks are told it: a folder becomes `file:` with an absolute path."""
    scheme, colon, place = source.partition(":")
    if colon and place and scheme in ("timm", "hf"):
        return source
    path = Path(place if colon and scheme == "file" else source).expanduser()
    if path.is_dir():
        return f"file:{path.resolve()}"
    raise ConfigError(
        "no such source", value=source, expected="timm:NAME, hf:OWNER/NAME, or a folder of weights"
    )


def _nobody(source: str, problems: Sequence[HookProblem]) -> ConfigError:
    provider = PROVIDERS[source.partition(":")[0]]
    for problem in problems:
        if problem.distribution == provider or problem.problem.startswith("mova_card"):
            return ConfigError(
                f"plugin {problem.plugin} makes no card of this source: {problem.problem}",
                value=source,
                hint=f"pip install --upgrade {problem.distribution}",
            )
    return ConfigError(
        "no installed plugin makes cards of this source", value=source, hint=f"pip install {provider}"
    )
