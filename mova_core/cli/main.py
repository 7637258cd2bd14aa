"""The command `mova`. The module of a command is imported when that command runs, and only then."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Annotated, Any

import typer

from mova_core.cards.warning import CardWarning
from mova_core.errors import ConfigError, MovaError

FAILED = 2
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command is, and what the help says of it.

    Args:
        module: has a typer app named `app` (a group of commands), or a function named `command`.
        help: one line.
        more: modules with further commands of a group, each with an `app`.
    """

    module: str
    help: str
    more: tuple[str, ...] = ()


COMMANDS = {
    "ask": Command("mova_core.cli.ask", "Answer a question about a picture."),
    "route": Command("mova_core.cli.route", "Show which experts a question would go to."),
    "experts": Command(
        "mova_core.cli.experts",
        "List and describe the experts of this environment.",
        more=(
            "mova_core.cli.search",
            "mova_core.cli.install",
            "mova_core.cli.freeze",
            "mova_core.cli.isolate",
            "mova_core.cli.authoring",
        ),
    ),
    "models": Command("mova_core.cli.models", "List, fetch and check models."),
    "train": Command("mova_core.cli.train", "Train a router, a model, or an expert's pack."),
    "convert": Command(
        "mova_core.cli.convert", "Convert a released MoVA checkpoint, or give its layout back."
    ),
    "plan": Command("mova_core.cli.memory_plan", "Say what of a model goes where, before it is loaded."),
    "eval": Command("mova_core.cli.evaluate", "Measure a model on held-out data."),
    "doctor": Command("mova_core.cli.doctor", "Check this environment and say how to mend it."),
}


LOADING = ("ask", "route")
"""Commands of which a good part is importing and loading: what these allocate is needed to the end."""

RARELY = (50_000, 20, 20)
"""When such a process searches for garbage; at the usual times that takes a second and a half of ten."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None takes those of this process.

    Returns:
        the exit code: 0 fine, 1 problems found, 2 an error, which stands in one line on stderr.
    """
    if arguments is None:
        arguments = sys.argv[1:]
        atexit.register(_end_at_once)
        if arguments and arguments[0] in LOADING:
            gc.set_threshold(*RARELY)
    # pydantic looks for plugins of its own, and fails where the entry points of any distribution are broken.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    with warnings.catch_warnings():
        warnings.showwarning = _shown_plainly(warnings.showwarning)
        return _flushed(_run(arguments))


def _end_at_once() -> None:
    """Spare the process a search for garbage in all that it gives back: with torch that takes a second."""
    gc.freeze()


def _run(arguments: Sequence[str]) -> int:
    try:
        _application(arguments)(args=arguments, prog_name="mova")
    except MovaError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _application(arguments: Sequence[str]) -> typer.Typer:
    """The typer app, in which only the command that is wanted is real; the others are there for the help."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Answer questions about pictures with the vision experts they need.",
    )
    app.callback(no_args_is_help=True)(_options)
    # All options of `mova` itself are flags, so the first other word is the command.
    words = list(dropwhile(lambda word: word.startswith("-"), arguments))
    wanted = words[0] if words else None
    for name, command in COMMANDS.items():
        if name == wanted:
            _add(app, name, _imported(name, command, words[1:2]), command.help)
        else:
            app.command(name, help=command.help)(_absent)
    if wanted is not None and wanted not in COMMANDS:
        _add(app, wanted, _from_plugin(wanted), None)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"mova-core {version('mova-core')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options of `mova` itself; each acts as soon as it is read."""


def _absent() -> None:
    """Stands in the help for a command that was not asked for."""


def _add(app: typer.Typer, name: str, command: typer.Typer | Callable[..., Any], help: str | None) -> None:
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name, help=help)
    else:
        app.command(name)(command)


def _imported(name: str, command: Command, next_word: Sequence[str]) -> typer.Typer | Callable[..., Any]:
    try:
        if command.more:
            return _group((command.module, *command.more), next_word)
        module = importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`mova {name}` needs the package {error.name}, which is not installed",
            hint="`mova doctor` says what else is missing.",
        ) from error
    found: typer.Typer | Callable[..., Any] = getattr(module, "app", None) or module.command
    return found


def _group(modules: Sequence[str], next_word: Sequence[str]) -> typer.Typer:
    """The commands of several modules. None is imported after the one with the command that is wanted."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    for name in modules:
        app: typer.Typer = importlib.import_module(name).app
        group.add_typer(app)
        if not _names(app).isdisjoint(next_word):
            break
    return group


def _names(app: typer.Typer) -> set[str]:
    """What the commands of an app are called; typer names those that give no name after their function."""
    commands = app.registered_commands
    return {each.name or each.callback.__name__.replace("_", "-") for each in commands if each.callback}


def _from_plugin(name: str) -> typer.Typer | Callable[..., Any]:
    """The command of that name that a behaviour plugin brings."""
    from mova_core.hookspecs import load_hooks

    brought = load_hooks().collect("mova_commands")
    if name in brought:
        found: typer.Typer | Callable[..., Any] = brought[name]
        return found
    from difflib import get_close_matches

    near = get_close_matches(name, [*COMMANDS, *brought], n=1)
    raise ConfigError(
        "no such command",
        value=f"mova {name}",
        expected=f"mova {near[0]}" if near else None,
        hint="Try `mova --help`.",
    )


def _shown_plainly(others: Callable[..., None]) -> Callable[..., None]:
    """Show warnings about cards in one line, and all others as before."""

    def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if issubclass(category, CardWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            others(message, category, *rest, **named)

    return show


def _flushed(code: int) -> int:
    """Flush stdout. If its reader is gone, as in `mova ... | head -1`, keep Python quiet about it at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or 1
    return code
