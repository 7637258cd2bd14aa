"""`mova experts install` and `uninstall`: distributions that bring experts, by uv or pip."""

from __future__ import annotations

import difflib
import importlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mova_core.cards.installed import Brought, installed, version
from mova_core.cli.plan import OtherIndex, Plan, Yes
from mova_core.errors import InstallError

if TYPE_CHECKING:
    from mova_core.cards.records import Record
    from mova_core.cli.targets import Target

app = typer.Typer()


@app.command()
def install(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Ids of the index, or full requirements: NAME==VERSION, NAME @ URL, "
            "git+https://...@REVISION, a path.",
            show_default=False,
        ),
    ],
    index: OtherIndex = None,
    yes: Yes = False,
) -> None:
    """Install experts and models; shows what it will do, and asks."""
    from mova_core.cli.index import open_index
    from mova_core.cli.installer import find_installer
    from mova_core.cli.targets import entry_target, target_of

    known = open_index(index)
    wanted = [target_of(name, known) for name in names]
    needed = [entry for name in names for entry in known.needs(name) if not version(entry.distribution)]
    wanted += [entry_target(entry, known) for entry in needed]
    targets = list({target.requirement: target for target in wanted}.values())
    present = {t.name: found for t in targets if t.name and (found := version(t.name))}
    before = installed()
    with tempfile.TemporaryDirectory(prefix="mova-install-") as workshop:
        steps = find_installer().install(targets, present, Path(workshop))
        changes = [install_line(target, present.get(target.name)) for target in targets]
        plan = Plan((*changes, "What they need besides comes from your package index."), tuple(steps))
        plan.agree(yes)
        plan.run()
    _report({target.name for target in targets}, before)


@app.command()
def uninstall(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="Ids of experts or models, or distributions.", show_default=False
        ),
    ],
    yes: Yes = False,
) -> None:
    """Uninstall the distributions that bring these experts; shows what goes with them, and asks."""
    from mova_core.cli.installer import find_installer

    here = installed()
    leaving = {found.name: found for found in (_named(name, here) for name in names)}
    changes = tuple(
        f"uninstall {found.name} {found.version}, and with it {', '.join(found.record_names) or 'no expert'}"
        for found in leaving.values()
    )
    plan = Plan(changes, tuple(find_installer().uninstall(list(leaving))))
    plan.agree(yes)
    plan.run()
    importlib.invalidate_caches()
    if left := sorted(leaving.keys() & installed().keys()):
        raise InstallError(
            "still installed", value=", ".join(left), hint="Another copy may lie elsewhere on Python's path."
        )
    print(f"Uninstalled {', '.join(leaving)}.")


def install_line(target: Target, present: str | None) -> str:
    """What will happen to one distribution, in words."""
    if present:
        return f"replace {target.name} {present} by {target.requirement}\n  from {target.origin}"
    return f"install {target.requirement}\n  from {target.origin}"


def _report(names: set[str], before: dict[str, Brought]) -> None:
    """Say what listings show now of what was installed.

    Raises:
        typer.Exit: something of it cannot be used.
    """
    from mova_core.cli.expert_text import print_table
    from mova_core.cli.experts import summary

    importlib.invalidate_caches()
    new = {name: found for name, found in installed().items() if name in names or found != before.get(name)}
    records: list[Record] = [record for found in new.values() for record in (*found.experts, *found.models)]
    if experts := [summary(record) for found in new.values() for record in found.experts]:
        print_table(experts)
    for model in (model for found in new.values() for model in found.models):
        print(f"model {model.id}: {model.problem or model.status}. `mova models list` shows its parts.")
    for name in sorted(names - {found.name for found in new.values() if found.record_names} - {""}):
        if found_version := version(name):
            print(f"{name} {found_version} brings no expert by itself; cards can name its code as factory.")
    if not new and not names - {""}:
        print("No expert or model has changed; `mova experts list` shows all.")
    if any(record.status not in ("ok", "disabled") for record in records):
        raise typer.Exit(1)


def _named(name: str, here: dict[str, Brought]) -> Brought:
    """The installed distribution that a name means: its own name, an id, or `distribution/id`.

    Raises:
        InstallError: none is meant, or several are, or a card of the user's own.
    """
    from mova_core.cli.targets import normal_name

    if found := here.get(normal_name(name)):
        return found
    bringing = [
        found
        for found in here.values()
        if any(name in (record.id, record.qualified) for record in (*found.experts, *found.models))
    ]
    if len(bringing) > 1:
        raise InstallError(
            "several distributions bring this",
            value=name,
            expected=" or ".join(found.name for found in bringing),
        )
    return bringing[0] if bringing else _without_records(name, here)


def _without_records(name: str, here: dict[str, Brought]) -> Brought:
    """An installed distribution that the index knows, though it brings nothing by itself."""
    from mova_core.cards.discovery import discover
    from mova_core.cards.records import USER
    from mova_core.cli.index import open_index

    cards = [
        record
        for record in discover()
        if record.distribution == USER and name in (record.id, record.qualified)
    ]
    if cards:
        raise InstallError(
            f"expert {name} is a card of your own", hint=f"To be rid of it, delete {cards[0].source}."
        )
    entry = open_index().find(name)
    if entry and (found := version(entry.distribution)):
        return Brought(entry.distribution, found)
    ids = [record.id for found in here.values() for record in (*found.experts, *found.models)]
    raise InstallError(
        "no installed distribution of experts has or brings this name",
        value=name,
        expected=" or ".join(difflib.get_close_matches(name, [*here, *ids], n=3, cutoff=0.5)) or None,
        hint="`mova experts list` shows all that are installed.",
    )
