"""A change of this environment: shown, agreed to, then made. Options that commands which change it share."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mova_core.errors import ConfigError, InstallError

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
OtherIndex = Annotated[
    str | None,
    typer.Option(
        "--index", metavar="URL|PATH", help="Another index of known experts: a folder, or a JSON file."
    ),
]

Step = tuple[str, ...]
"""A command line. A word that ends in "/*" stands for the files of that folder."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is going to happen.

    Args:
        changes: in words, a line each.
        steps: the command lines, in order.
    """

    changes: tuple[str, ...]
    steps: tuple[Step, ...]

    def agree(self, yes: bool) -> None:
        """Show the plan and ask.

        Args:
            yes: do not ask.

        Raises:
            ConfigError: there is no terminal to ask at.
            typer.Exit: the answer was no.
        """
        for change in self.changes:
            print(change)
        for step in self.steps:
            print(f"  $ {_shown(step)}")
        if yes:
            return
        if not sys.stdin.isatty():
            raise ConfigError(
                "there is no terminal to ask at", hint="Repeat the command with --yes to do this."
            )
        if not typer.confirm("Do this?", default=False):
            print("Nothing was changed.")
            raise typer.Exit(1)

    def run(self) -> None:
        """Run the steps in order, up to the first that fails.

        Raises:
            InstallError: one failed.
        """
        for step in self.steps:
            sys.stdout.flush()
            try:
                code = subprocess.run(_expanded(step), check=False).returncode
            except OSError as error:
                raise InstallError(f"{step[0]} cannot be run: {error.strerror}") from error
            if code:
                raise InstallError(
                    f"this command failed with exit code {code}",
                    value=_shown(step),
                    hint="Its reason stands above.",
                )


def _shown(step: Step) -> str:
    return " ".join(
        shlex.quote(word[:-1]) + "*" if word.endswith("/*") else shlex.quote(word) for word in step
    )


def _expanded(step: Step) -> list[str]:
    return [word for words in step for word in (_files(words) if words.endswith("/*") else [words])]


def _files(pattern: str) -> list[str]:
    return sorted(str(path) for path in Path(pattern[:-2]).iterdir())
